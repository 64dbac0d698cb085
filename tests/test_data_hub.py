"""The way to the hub, against a server on this machine that has the hub's layout."""

import hashlib
import io
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pandas as pd
import pytest

import transformers
from huggingface_hub import constants as hub_constants

from companion.data import TASKS, DataIntegrityError, DataUnavailableError, FileSpec, load_model, load_task, load_tokenizer

COMMIT = TASKS["rte"].revision
OTHER_COMMIT = "0123456789abcdef0123456789abcdef01234567"
PATH = "rte/train-00000-of-00001.parquet"
DATASET_URL = f"/datasets/nyu-mll/glue/resolve/{COMMIT}/{PATH}"


class Handler(BaseHTTPRequestHandler):
    """Serves ``server.files``; a path in ``server.cut`` is always cut off after half of its bytes."""

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body: bool):
        path = unquote(self.path)
        self.server.requests.append((self.command, path))
        content = self.server.files.get(path)
        self.send_response(self.server.status or (200 if content is not None else 404))
        content = content or b""
        digest = hashlib.sha256(content).hexdigest()
        for name, value in {
            "ETag": f'"{digest}"',
            "X-Linked-Etag": f'"{digest}"',
            "X-Linked-Size": len(content),
            "X-Repo-Commit": self.server.commit,
            "Content-Length": len(content),
        }.items():
            self.send_header(name, str(value))
        self.end_headers()
        if body:
            self.wfile.write(content[: len(content) // 2] if path in self.server.cut else content)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A running server with no files; the environment points to it and to an empty cache."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.files, server.cut, server.requests, server.status, server.commit = {}, set(), [], None, COMMIT
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in ("COMPANION_DATA_DIR", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", False)
    yield server
    server.shutdown()
    server.server_close()


def parquet(n: int = 500, first_label: int = 0) -> bytes:
    buffer = io.BytesIO()
    texts = [f"sentence {hashlib.sha256(bytes([i % 251])).hexdigest()} {i}" for i in range(n)]
    labels = [first_label, *(i % 2 for i in range(1, n))]
    pd.DataFrame({"sentence1": texts, "sentence2": texts, "label": labels}).to_parquet(buffer)
    return buffer.getvalue()


@pytest.fixture
def official(monkeypatch):
    """Stand-in for the official RTE training file: its content, registered with its hash and row count."""
    content = parquet()
    spec = FileSpec(PATH, 500, hashlib.sha256(content).hexdigest())
    monkeypatch.setitem(TASKS, "rte", replace(TASKS["rte"], splits={"train": spec}))
    return content


def cached_files(tmp_path: Path) -> list[Path]:
    """Everything in the cache that could be taken for data: links in snapshots, and blobs."""
    return [
        path
        for path in (tmp_path / "hf").rglob("*")
        if (path.is_file() or path.is_symlink())
        and {"snapshots", "blobs"} & set(path.parts)
        and path.suffix != ".incomplete"
    ]


# --- data sets


def test_download_then_cache_then_offline(server, official, monkeypatch):
    server.files[DATASET_URL] = official
    frame = load_task("rte")
    assert frame.attrs["source"] == "hub" and frame.attrs["subset"] is False and len(frame) == 500
    assert frame.attrs["sha256"] == hashlib.sha256(official).hexdigest()
    asked = len(server.requests)
    pd.testing.assert_frame_equal(load_task("rte"), frame)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    pd.testing.assert_frame_equal(load_task("rte"), frame)
    assert len(server.requests) == asked


def test_folder_that_lacks_the_file_falls_through_to_the_hub(server, official, tmp_path, monkeypatch):
    monkeypatch.setenv("COMPANION_DATA_DIR", str(tmp_path))
    server.files[DATASET_URL] = official
    assert load_task("rte").attrs["source"] == "hub"


def test_wrong_hash_is_refused_and_a_retry_downloads_afresh(server, official, tmp_path):
    server.files[DATASET_URL] = parquet(first_label=1)
    with pytest.raises(DataIntegrityError, match="SHA-256"):
        load_task("rte")
    assert cached_files(tmp_path) == []
    server.files[DATASET_URL] = official
    assert len(load_task("rte")) == 500


def test_wrong_number_of_rows_is_refused(server, official, tmp_path, monkeypatch):
    spec = replace(TASKS["rte"].splits["train"], rows=499)
    monkeypatch.setitem(TASKS, "rte", replace(TASKS["rte"], splits={"train": spec}))
    server.files[DATASET_URL] = official
    with pytest.raises(DataIntegrityError, match="500 rows, expected 499"):
        load_task("rte")
    assert cached_files(tmp_path) == []


def test_file_damaged_in_the_cache_is_refused_once(server, official, tmp_path):
    server.files[DATASET_URL] = official
    load_task("rte")
    blob = next(path for path in cached_files(tmp_path) if "blobs" in path.parts)
    blob.write_bytes(official[:-7])
    with pytest.raises(DataIntegrityError, match="SHA-256"):
        load_task("rte")
    assert len(load_task("rte")) == 500


@pytest.mark.parametrize("chunk", [10_000_000, 1000])  # with many chunks the hub client alone would retry for ever
def test_server_that_always_breaks_off(server, official, tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(hub_constants, "DOWNLOAD_CHUNK_SIZE", chunk)
    server.files[DATASET_URL] = official
    server.cut.add(DATASET_URL)
    start = time.monotonic()
    with pytest.raises(DataUnavailableError, match="could not be fetched") as caught:
        load_task("rte")
    assert time.monotonic() - start < 20 and "COMPANION_DATA_DIR" in str(caught.value)
    assert cached_files(tmp_path) == []
    server.cut.clear()
    assert len(load_task("rte")) == 500


def test_file_that_the_hub_lacks(server, official, tmp_path):
    with pytest.raises(DataUnavailableError, match=r"does not exist on http://127.0.0.1:\d+ \(404\)") as caught:
        load_task("rte")
    for hint in ("nyu-mll/glue", PATH, COMMIT, "COMPANION_DATA_DIR", "qnli-mini"):
        assert hint in str(caught.value)
    assert cached_files(tmp_path) == []


@pytest.mark.parametrize("status", [401, 403, 500, 503])
def test_hub_that_refuses(server, official, status):
    server.status = status
    start = time.monotonic()
    with pytest.raises(DataUnavailableError, match="could not be fetched"):
        load_task("rte")
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9", "http://no-such-host.invalid", "not-a-url"])
def test_no_server_is_reported_quickly(server, official, endpoint, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    start = time.monotonic()
    with pytest.raises(DataUnavailableError, match="could not be fetched"):
        load_task("rte")
    assert time.monotonic() - start < 20


def test_offline_and_not_cached(server, official, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DataUnavailableError, match="HF_HUB_OFFLINE is set"):
        load_task("rte")
    assert server.requests == []


# --- models


@pytest.fixture(scope="module")
def tiny_files(tmp_path_factory):
    """The files of a random two-layer BERT with a tokenizer, by name."""
    from tokenizers import Tokenizer, models

    folder = tmp_path_factory.mktemp("tiny")
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    transformers.BertModel(transformers.BertConfig(vocab_size=4, **sizes)).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "a": 2, "b": 3}, unk_token="[UNK]"))
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]"
    ).save_pretrained(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def publish(server, files, repo: str, revision: str, commit: str = OTHER_COMMIT):
    """Offer a model under a branch name and under its commit."""
    server.commit = commit
    for at in (revision, commit):
        server.files |= {f"/{repo}/resolve/{at}/{name}": content for name, content in files.items()}


def test_model_and_tokenizer_by_hub_name(server, tiny_files, monkeypatch):
    publish(server, tiny_files, "someone/tiny", "main")
    model, tokenizer = load_model("someone/tiny", n_labels=5), load_tokenizer("someone/tiny")
    assert model.config._commit_hash == OTHER_COMMIT and model.num_labels == 5 and not model.training
    assert tokenizer("a")["input_ids"] == [2]
    assert {path.split("/resolve/")[0] for _, path in server.requests} == {"/someone/tiny"}
    for variable, value in (("HF_HUB_OFFLINE", "1"), ("HF_ENDPOINT", "http://127.0.0.1:9")):
        monkeypatch.setenv(variable, value)  # the branch is now only known from the cache
        assert load_model("someone/tiny").config._commit_hash == OTHER_COMMIT
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


def test_revision_is_respected(server, tiny_files):
    publish(server, tiny_files, "someone/tiny", "v2")
    assert load_model("someone/tiny@v2").config._commit_hash == OTHER_COMMIT
    with pytest.raises(DataUnavailableError, match="'someone/tiny' at revision 'main' is not available"):
        load_model("someone/tiny")


def test_bert_is_pinned(server, tiny_files):
    pinned = "86b5e0934494bd15c9632b12f734a8a67f723594"
    publish(server, tiny_files, "bert-base-uncased", pinned, commit=pinned)
    assert load_model("bert-base-uncased").config._commit_hash == pinned


def test_sharded_weights(server, tiny_files, tmp_path):
    from transformers import BertModel

    for name, content in tiny_files.items():
        (tmp_path / name).write_bytes(content)
    BertModel.from_pretrained(tmp_path).save_pretrained(tmp_path / "sharded", max_shard_size="4KB")
    files = {path.name: path.read_bytes() for path in (tmp_path / "sharded").iterdir()}
    assert sum(name.endswith(".safetensors") for name in files) > 1
    publish(server, files, "someone/shards", "main")
    assert load_model("someone/shards").num_labels == 2


def test_model_without_safetensors(server, tiny_files):
    publish(server, {"config.json": tiny_files["config.json"], "pytorch_model.bin": b"pickle"}, "someone/old", "main")
    with pytest.raises(DataUnavailableError, match="no model.safetensors"):
        load_model("someone/old")
    with pytest.raises(DataUnavailableError, match="no tokenizer.json"):
        load_tokenizer("someone/old")


def test_model_that_does_not_exist(server):
    with pytest.raises(DataUnavailableError, match="does not exist") as caught:
        load_model("someone/absent")
    for hint in ("someone/absent", "config.json", "minilm", "HF_ENDPOINT"):
        assert hint in str(caught.value)
    assert not any(path.endswith(".safetensors") for _, path in server.requests)


def test_model_download_that_breaks_off(server, tiny_files, tmp_path):
    publish(server, tiny_files, "someone/tiny", "main")
    server.cut.add(f"/someone/tiny/resolve/{OTHER_COMMIT}/model.safetensors")
    with pytest.raises(DataUnavailableError, match="model.safetensors"):
        load_model("someone/tiny")
    assert [path.name for path in cached_files(tmp_path) if "snapshots" in path.parts] == ["config.json"]
