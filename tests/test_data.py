"""Data sets by name, models by name from folders, and batches."""

import importlib.resources
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from companion.data import TASKS, DataIntegrityError, DataUnavailableError, load_task, sample, task_of

BUNDLED = [(name, split) for name, task in TASKS.items() if task.bundled for split in task.splits]


def glue_folder() -> Path | None:
    """The user's GLUE folder, if there is one."""
    folder = os.environ.get("COMPANION_DATA_DIR")
    return Path(folder) / "glue" if folder and (Path(folder) / "glue").is_dir() else None


USER_GLUE = glue_folder()


def write_rte(folder: Path, frame: pd.DataFrame) -> Path:
    path = folder / "glue" / "rte" / "train-00000-of-00001.parquet"
    path.parent.mkdir(parents=True)
    frame.to_parquet(path)
    return path


def rte(n: int = 6) -> pd.DataFrame:
    texts = [f"sentence number {i}" for i in range(n)]
    return pd.DataFrame({"sentence1": texts, "sentence2": texts, "label": np.arange(n) % 2, "idx": np.arange(n)})


# --- the table and the bundled subsets


def test_import_loads_neither_torch_nor_transformers():
    code = "import companion.data, sys; assert not {'torch', 'transformers', 'huggingface_hub'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_table_holds_the_eight_glue_tasks():
    assert set(TASKS) == {"cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "qnli-mini", "stsb-mini"}
    for name, task in TASKS.items():
        assert task.name == name
        assert task.regression == name.startswith("stsb") == (task.label_names == ())
        assert task.regression or len(task.label_names) == task.n_labels
        for spec in task.splits.values():
            assert len(spec.sha256) == 64 and spec.rows > 0
    assert TASKS["mnli"].splits["validation"] == TASKS["mnli"].splits["validation_matched"]


@pytest.mark.parametrize(("name", "split"), BUNDLED)
def test_bundled_subset(name, split, monkeypatch):
    monkeypatch.setenv("COMPANION_DATA_DIR", "/no/such/folder")  # must not matter
    frame = load_task(name, split)
    task, spec = TASKS[name], TASKS[name].splits[split]
    assert list(frame.columns) == [*task.text_columns, "label"]
    assert frame.attrs == {
        "task": name,
        "split": split,
        "source": "bundled",
        "rows": spec.rows,
        "sha256": spec.sha256,
        "subset": True,
    }
    if task.regression:
        assert frame["label"].dtype == np.float32 and frame["label"].between(0, 5).all()
    else:
        assert frame["label"].dtype == np.int64 and abs(frame["label"].mean() - 0.5) < 0.03


def test_train_and_validation_share_no_question():
    train, validation = (load_task("qnli-mini", split) for split in ("train", "validation"))
    assert not set(train["question"]) & set(validation["question"])


def test_bundled_files_are_small():
    assets = Path(str(importlib.resources.files("companion"))) / "assets"
    assert sum(path.stat().st_size for path in assets.glob("*-mini/*.parquet")) < 3_000_000


def test_tampered_asset_is_refused(tmp_path, monkeypatch):
    from companion.data import known

    shutil.copytree(str(known.ASSETS), tmp_path / "assets")
    monkeypatch.setattr(known, "ASSETS", tmp_path / "assets")
    path = tmp_path / "assets" / "stsb-mini" / "train.parquet"
    assert len(load_task("stsb-mini")) == 2000
    frame = pd.read_parquet(path)
    frame.loc[0, "label"] = 0.0 if frame.loc[0, "label"] else 1.0
    frame.to_parquet(path)
    with pytest.raises(DataIntegrityError, match="SHA-256"):
        load_task("stsb-mini")
    path.unlink()
    with pytest.raises(DataUnavailableError, match="reinstall"):
        load_task("stsb-mini")


@pytest.mark.skipif(
    USER_GLUE is None or not (USER_GLUE / "qnli").is_dir(), reason="COMPANION_DATA_DIR holds no glue/qnli"
)
def test_bundled_subset_is_what_its_maker_draws():
    from companion.data.make_subsets import draw_subset

    made = draw_subset(USER_GLUE, "qnli", "validation", 1000)
    pd.testing.assert_frame_equal(made, load_task("qnli-mini", "validation"), check_dtype=False)


# --- names that are not known


@pytest.mark.parametrize("name", ["", "QNLI", "rte ", "qnli-mini.parquet", None])
def test_unknown_task(name, data_dir):
    with pytest.raises(ValueError, match="unknown task .* known are cola, sst2"):
        load_task(name)
    with pytest.raises(ValueError, match="a folder with train.parquet is accepted too"):
        task_of(name)


@pytest.mark.parametrize("name", ["../qnli", "qnli/../rte", "/etc", "qnli-mini/train", "./rte"])
def test_known_name_inside_a_path_means_a_folder(name, data_dir, monkeypatch):
    write_rte(data_dir, rte())
    monkeypatch.chdir(data_dir / "glue" / "rte")
    with pytest.raises(DataUnavailableError, match="is not an existing folder|has no train split"):
        load_task(name)


def test_known_name_is_no_folder_even_where_there_is_one(data_dir, monkeypatch):
    write_rte(data_dir, rte())
    monkeypatch.chdir(data_dir / "glue")
    assert load_task("rte").attrs["subset"] is True and load_task("./rte").attrs["subset"] is False


@pytest.mark.parametrize("name", TASKS)
def test_task_of_a_known_name_is_its_entry(name, data_dir):
    assert task_of(name) is TASKS[name]
    assert TASKS[name].label_range == ((0.0, 5.0) if name.startswith("stsb") else (0, TASKS[name].n_labels - 1))


@pytest.mark.parametrize("split", ["test", "../train", ""])
def test_unknown_split(split):
    with pytest.raises(ValueError, match="no split .* it has train, validation"):
        load_task("qnli-mini", split)


# --- the user's folder


def test_folder_with_a_subset(data_dir):
    write_rte(data_dir, rte())
    frame = load_task("rte")
    assert frame.attrs["source"] == "folder" and frame.attrs["rows"] == 6 and frame.attrs["subset"] is True
    assert list(frame.columns) == ["sentence1", "sentence2", "label", "idx"]


def test_folder_with_the_official_number_of_rows_is_no_subset(data_dir):
    write_rte(data_dir, rte(2490))
    assert load_task("rte").attrs["subset"] is False


def test_mnli_validation_is_the_matched_file(data_dir):
    path = data_dir / "glue" / "mnli" / "validation_matched-00000-of-00001.parquet"
    path.parent.mkdir(parents=True)
    pd.DataFrame({"premise": ["a"], "hypothesis": ["b"], "label": [2]}).to_parquet(path)
    assert load_task("mnli", "validation")["label"].tolist() == [2]


def test_folder_that_does_not_exist(monkeypatch, tmp_path):
    monkeypatch.setenv("COMPANION_DATA_DIR", str(tmp_path / "absent"))
    with pytest.raises(DataUnavailableError, match="COMPANION_DATA_DIR .* not a folder"):
        load_task("rte")


def test_file_that_is_nowhere_names_the_options(data_dir):
    with pytest.raises(DataUnavailableError) as caught:
        load_task("rte")
    for hint in ("glue/rte/train-00000-of-00001.parquet", "COMPANION_DATA_DIR", "qnli-mini", "nyu-mll/glue", "OFFLINE"):
        assert hint in str(caught.value)


@pytest.mark.parametrize("keep", [0, 4, 0.5, -8])
def test_truncated_file(data_dir, keep):
    path = write_rte(data_dir, rte(200))
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if keep == 0.5 else keep])
    with pytest.raises(DataIntegrityError, match="cannot be read as Parquet"):
        load_task("rte")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.drop(columns="sentence2"), "also needs sentence2"),
        (lambda f: f.rename(columns={"label": "y"}), "also needs label"),
        (lambda f: f.assign(label=[0, 1, 2, 0, 1, 0]), "from 0 to 2; 'rte' has integers from 0 to 1"),
        (lambda f: f.assign(label=-1), "from -1 to -1"),
        (lambda f: f.assign(label=0.5), "label' is float64"),
        (lambda f: f.assign(label="entailment"), "integers from 0 to 1"),
        (lambda f: f.assign(label=[0, 1, None, 0, 1, 0]), "1 missing values"),
        (lambda f: f.assign(sentence1=["a", None, "c", None, "e", "f"]), "'sentence1' has 2 missing values"),
        (lambda f: f.assign(sentence1=range(6)), "expected text"),
        (lambda f: f.head(0), "no rows"),
    ],
)
def test_foreign_file(data_dir, change, message):
    write_rte(data_dir, change(rte()))
    with pytest.raises(DataIntegrityError, match=message):
        load_task("rte")


@pytest.mark.skipif(USER_GLUE is None, reason="COMPANION_DATA_DIR names no folder with glue/")
@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if not task.bundled])
def test_users_own_folder(name):
    frame = load_task(name, "validation")
    assert frame.attrs["source"] == "folder" and len(frame) == frame.attrs["rows"]
    assert frame.attrs["subset"] == (len(frame) != TASKS[name].splits["validation"].rows)


# --- sampling


def test_sample_draws_without_replacement_and_keeps_attrs():
    frame = load_task("stsb-mini", "validation")
    drawn = sample(frame, 100, seed=3)
    assert drawn.index.is_unique and len(drawn) == 100 and drawn.attrs == frame.attrs
    pd.testing.assert_frame_equal(drawn, sample(frame, 100, seed=3))
    assert drawn.index.tolist() != sample(frame, 100, seed=4).index.tolist()
    assert sorted(sample(frame, 500, seed=0).index) == list(range(500))
    for n in (0, -1, 501):
        with pytest.raises(ValueError, match=f"n is {n}; it must be between 1 and the 500 rows"):
            sample(frame, n, seed=0)
