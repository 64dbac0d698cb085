"""The pre-training script: a run that stops, or is killed, and goes on is the run that nothing disturbed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from safetensors import safe_open

from companion.book import pretrain_vit
from companion.book.pretrain_vit import SETTING, accuracy, learning_rate, pretrain
from companion.data import DataUnavailableError, load_images, load_model
from companion.data.image_batches import arrays
from companion.data.image_tasks import IMAGE_TASKS
from companion.data.sources import VIT_CIFAR50_SHA256

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
TINY = SETTING | {
    "model": {"image_size": 32, "patch_size": 8, **SIZES},
    "epochs": 3,
    "warmup_epochs": 1,
    "batch_size": 24,
}


@pytest.fixture(scope="module")
def data():
    train, test = (load_images("fashion-mnist-mini", split, classes=(1, 7, 8)) for split in ("train", "test"))
    return train[:100], test[:60]


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed")
    pretrain(out, *data, TINY)
    return out


def checkpoint(out):
    with safe_open(out / "checkpoint.safetensors", framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["progress"])


def assert_same(one, two):
    (tensors, progress), (others, other_progress) = checkpoint(one), checkpoint(two)
    assert tensors.keys() == others.keys() and all(torch.equal(tensors[name], others[name]) for name in tensors)
    history, other_history = (pd.DataFrame(p["history"])[["epoch", "loss", "accuracy"]] for p in (progress, other_progress))
    assert history.equals(other_history)
    weights = [(out / "vit-cifar50" / "model.safetensors").read_bytes() for out in (one, two)]
    assert weights[0] == weights[1]


def test_a_run_in_single_steps_is_the_same_run(data, undisturbed, tmp_path):
    calls = 0
    while not (tmp_path / "vit-cifar50").exists():
        torch.manual_seed(calls)
        np.random.seed(calls)
        pretrain(tmp_path, *data, TINY, minutes=0)
        calls += 1
        assert (tmp_path / "checkpoint.safetensors").exists() and calls < 20
    assert calls == 3 * 4 + 1  # five steps an epoch; the last step of an epoch and the first of the next in one sitting
    assert_same(tmp_path, undisturbed)


@pytest.mark.parametrize("killed", ["in a step", "while the checkpoint is written", "while the weights are exported"])
def test_a_killed_run_goes_on(data, undisturbed, tmp_path, monkeypatch, killed):
    monkeypatch.setattr(pretrain_vit, "SAVE_SECONDS", 0)  # a checkpoint after every step
    count, step, rename, export = 0, pretrain_vit._step, pretrain_vit._rename, transformers.ViTForImageClassification.save_pretrained

    def dying_step(*args):
        nonlocal count
        count += 1
        if count == 8:
            raise KeyboardInterrupt
        return step(*args)

    def dying_rename(new, path):
        nonlocal count
        count += 1
        if count == 9:
            new.write_bytes(new.read_bytes()[:100])
            raise KeyboardInterrupt
        rename(new, path)

    def dying_export(model, folder):
        export(model, folder)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if killed == "in a step":
            patch.setattr(pretrain_vit, "_step", dying_step)
        elif killed == "while the checkpoint is written":
            patch.setattr(pretrain_vit, "_rename", dying_rename)
        else:
            patch.setattr(transformers.ViTForImageClassification, "save_pretrained", dying_export)
        with pytest.raises(KeyboardInterrupt):
            pretrain(tmp_path, *data, TINY)
    assert not (tmp_path / "vit-cifar50").exists()
    pretrain(tmp_path, *data, TINY)
    assert_same(tmp_path, undisturbed)


def test_log_record_and_weights(data, undisturbed):
    lines = [json.loads(line) for line in (undisturbed / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3] and all(line["images_per_second"] > 0 for line in lines)
    folder = undisturbed / "vit-cifar50"
    record = json.loads((folder / "record.json").read_text())
    assert record["history"] == lines and record["setting"] == TINY and record["data"]["task"] == "fashion-mnist-mini"
    assert (record["training_images"], record["test_images"]) == (100, 60)
    assert record["classes"] == ["trouser", "sneaker", "bag"]
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"F16"}
    stored = transformers.ViTForImageClassification.from_pretrained(folder, dtype=torch.float32)
    assert accuracy(stored, *arrays(data[1])) == record["accuracy"]
    assert stored.num_parameters() == record["parameters"]
    assert load_model(folder, n_labels=10).classifier.out_features == 10
    assert {path.name for path in undisturbed.iterdir()} == {"checkpoint.safetensors", "log.jsonl", "vit-cifar50"}


def test_a_finished_run_is_exported_again_and_not_trained(data, undisturbed, monkeypatch):
    monkeypatch.setattr(pretrain_vit, "_step", None)
    before = (undisturbed / "vit-cifar50" / "model.safetensors").read_bytes()
    assert len(pretrain(undisturbed, *data, TINY)) == 3
    assert (undisturbed / "vit-cifar50" / "model.safetensors").read_bytes() == before


def test_another_setting_in_the_same_folder_is_refused(data, undisturbed):
    with pytest.raises(ValueError, match="is of a run with the setting"):
        pretrain(undisturbed, *data, TINY | {"epochs": 4})


def test_other_images_in_the_same_folder_are_refused(data, undisturbed):
    train, test = data
    changed = train.copy()
    changed["image"] = [255 - image for image in train["image"]]
    changed.attrs = train.attrs
    for others in ((changed, test), (train[::-1], test), (train[:99], test), (train, test[:59])):
        with pytest.raises(ValueError, match="is of a run on the images .*; use the same or another folder"):
            pretrain(undisturbed, *others, TINY)


@pytest.mark.parametrize("epoch", [2, 3])
def test_a_run_killed_between_checkpoint_and_log_loses_no_line(data, undisturbed, tmp_path, monkeypatch, epoch):
    write, setting = pretrain_vit._write, TINY | {"epochs": 3}

    def dying_write(path, text):
        if path.name == "log.jsonl" and text.count("\n") == epoch:
            raise KeyboardInterrupt
        write(path, text)

    with monkeypatch.context() as patch:
        patch.setattr(pretrain_vit, "_write", dying_write)
        with pytest.raises(KeyboardInterrupt):
            pretrain(tmp_path, *data, setting)
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == epoch - 1
    pretrain(tmp_path, *data, setting, minutes=0)
    history = checkpoint(tmp_path)[1]["history"]
    assert [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()] == history and len(history) == epoch


def new_run(folder, **changes):
    return pretrain_vit.Run(TINY | changes, 3, folder / "checkpoint.safetensors", {})


def test_weight_decay_is_for_matrices_alone(tmp_path):
    """No decay of biases, norms, the class token and the positions."""
    run = new_run(tmp_path, weight_decay=0.5, learning_rate=0.1)
    before = {name: value.detach().clone() for name, value in run.model.named_parameters()}
    for value in run.model.parameters():
        value.grad = torch.zeros_like(value)
    run.optimizer.step()
    for name, value in run.model.named_parameters():
        kept = name.endswith("bias") or "norm" in name or name.endswith(("cls_token", "position_embeddings"))
        assert torch.allclose(value, before[name] * (1.0 if kept else 0.95), atol=1e-7), name
        assert not kept or torch.equal(value, before[name])


def test_gradients_are_clipped_at_norm_1(tmp_path):
    run, seen = new_run(tmp_path), []
    run.model.classifier.weight.data.mul_(1e3)
    run.optimizer.register_step_pre_hook(lambda *_: seen.append([value.grad.clone() for value in run.model.parameters()]))
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 32, 3), dtype=np.uint8)
    pretrain_vit._step(run, pixels, np.arange(24) % 3, np.random.default_rng(0))
    norm = torch.cat([gradient.flatten() for gradient in seen[0]]).norm()
    assert norm == pytest.approx(1.0, rel=1e-4)


class Brightness(torch.nn.Module):
    """Two classes told by the mean of an image; keeps what it is shown."""

    def __init__(self):
        super().__init__()
        self.slope, self.shown = torch.nn.Parameter(torch.tensor(1.5)), []

    def forward(self, pixel_values):
        self.shown.append(pixel_values)
        light = self.slope * pixel_values.mean(dim=(1, 2, 3))
        return transformers.modeling_outputs.ImageClassifierOutput(logits=torch.stack([light, -light], dim=1))


def black_and_white(run, seed):
    """A step on white images of class 0 and black ones of class 1: its loss, and what the model saw."""
    run.model = Brightness()
    labels = np.arange(24) % 2
    pixels = np.where(labels[:, None, None, None] == 0, 255, 0).astype(np.uint8) * np.ones((1, 32, 32, 3), np.uint8)
    loss = pretrain_vit._step(run, pixels, labels, np.random.default_rng(seed))
    return loss, run.model.shown[0]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_mixed_images_have_mixed_and_smoothed_labels(tmp_path, monkeypatch, smoothing, seed):
    """The share of white in an image is the share of its label."""
    monkeypatch.setattr(pretrain_vit, "augmented", lambda pixels, rng: pixels)
    loss, shown = black_and_white(new_run(tmp_path, mixup=1.0, label_smoothing=smoothing), seed)
    assert torch.allclose(shown, shown[:, :1, :1, :1].expand_as(shown))
    white = (shown[:, 0, 0, 0] + 1) / 2
    assert ((white > 0.01) & (white < 0.99)).any()
    targets = torch.stack([white, 1 - white], dim=1) * (1 - smoothing) + smoothing / 2
    light = 1.5 * shown[:, 0, 0, 0]
    expected = -(targets * torch.stack([light, -light], dim=1).log_softmax(1)).sum(1).mean()
    assert loss == pytest.approx(expected.item(), rel=1e-5)


def test_training_images_are_cropped_and_flipped_anew_in_each_step(tmp_path):
    run = new_run(tmp_path, mixup=1e-9)  # all of one image, or of the other
    first, second = (black_and_white(run, seed)[1] for seed in (0, 1))
    bright = first[(first == 1).any(dim=(1, 2, 3))]
    assert len(bright) == 12 and (bright == -1).any(dim=(1, 2, 3)).float().mean() > 0.8  # the black of the margin
    assert not torch.equal(first, second)


def test_it_learns(data, tmp_path):
    setting = TINY | {"epochs": 12, "learning_rate": 3e-3}
    history = pretrain(tmp_path, *data, setting)
    assert history[-1]["loss"] < history[0]["loss"] - 0.1 and history[-1]["accuracy"] > 0.5


def test_divergence_stops_the_run_and_leaves_the_checkpoint(data, tmp_path):
    pretrain(tmp_path, *data, TINY | {"learning_rate": float(1e30)}, minutes=0)
    before = (tmp_path / "checkpoint.safetensors").read_bytes()
    with pytest.raises(ValueError, match="loss: epoch 1, step .* gave nan"):
        pretrain(tmp_path, *data, TINY | {"learning_rate": float(1e30)})
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == before


def test_learning_rate_rises_and_falls():
    rates = [learning_rate(TINY, epochs) for epochs in (0, 0.5, 1, 2, 3)]
    assert rates == pytest.approx([0, 5e-4, 1e-3, 5e-4, 0])


def test_full_setting_is_the_model_of_the_book():
    model = transformers.ViTForImageClassification(transformers.ViTConfig(**SETTING["model"], num_labels=50))
    assert model.num_parameters() == 2_719_730 and model.config.hidden_dropout_prob == 0  # nothing random in the model
    assert 2 * model.num_parameters() < 6_000_000


SCRIPT = """
import sys; sys.path.insert(0, {tests!r})
from pathlib import Path
import test_pretrain_vit as t
t.pretrain_vit.SAVE_SECONDS = 0
train, test = (t.load_images("fashion-mnist-mini", s, classes=(1, 7, 8)) for s in ("train", "test"))
t.pretrain(Path({out!r}), train[:100], test[:60], t.TINY | {{"epochs": 400}})
"""


def test_sigkill(data, tmp_path):
    """A real kill at any moment leaves a checkpoint that can be gone on with."""
    script = SCRIPT.format(tests=os.path.dirname(__file__), out=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (tmp_path / "checkpoint.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = checkpoint(tmp_path)[1]
    pretrain(tmp_path, *data, TINY | {"epochs": 400}, minutes=0)
    after = checkpoint(tmp_path)[1]
    assert (after["epoch"], after["step"]) > (before["epoch"], before["step"])


BUNDLED = Path(pretrain_vit.__file__).parents[1] / "assets" / "vit-cifar50"


def test_the_bundled_weights_are_those_of_the_recorded_run():
    record = json.loads((BUNDLED / "record.json").read_text())
    assert record["sha256"] == VIT_CIFAR50_SHA256 and record["setting"] == SETTING
    assert (BUNDLED / "model.safetensors").stat().st_size < 6e6
    assert len(record["history"]) == SETTING["epochs"] and record["classes"] == [*IMAGE_TASKS["cifar100"].label_names[:50]]
    model = load_model("vit-cifar50", n_labels=50)
    assert model.num_parameters() == record["parameters"] and model.classifier.out_features == 50


def test_the_bundled_weights_have_the_recorded_accuracy():
    try:
        test = load_images("cifar100", "test", classes=range(50))
    except DataUnavailableError:
        pytest.skip("CIFAR-100 is not at hand")
    model = transformers.ViTForImageClassification.from_pretrained(BUNDLED, dtype=torch.float32)
    record = json.loads((BUNDLED / "record.json").read_text())
    assert accuracy(model, *arrays(test)) == pytest.approx(record["accuracy"], abs=0.002)
