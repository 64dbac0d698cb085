"""Images from the package, from folders and from the user's data folder; batches made of them; models that classify them."""

import hashlib
import io
import os
import shutil
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from PIL import Image
from tiny_models import tiny_vit

from companion.data import DataIntegrityError, DataUnavailableError, FileSpec
from companion.data import load_images, load_model, load_task, make_image_dataloader, sample
from companion.data import image_batches, image_tasks, known, make_images, sources
from companion.finetune import evaluate, finetune, warm_up_head
from companion.gradients import mean_gradients
from companion.runs import provenance

FASHION = "fashion-mnist-mini"
CIFAR = image_tasks.IMAGE_TASKS["cifar100"]
FULL = os.environ.get("COMPANION_DATA_DIR")
DEBIAN = Path("/usr/share/datasets/fashion-mnist")


def pictures(n, height=8, width=8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, height, width, 3), dtype=np.uint8)


def encoded(picture, kind="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format=kind, **({"lossless": True} if kind == "WEBP" else {}))
    return buffer.getvalue()


def write(path, content, labels, image="image", label="label", struct=True):
    cells = [{"bytes": data, "path": None} for data in content] if struct else list(content)
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame({image: cells, label: labels}).to_parquet(path)


def write_cifar(folder, n=12, labels=None, kind="PNG"):
    shown = pictures(n, 32, 32)
    labels = np.arange(n) % 100 if labels is None else labels
    path = folder / CIFAR.splits["train"].path
    write(path, [encoded(picture, kind) for picture in shown], labels, "img", "fine_label")
    return shown, path


# --- the bundled sample


@pytest.mark.parametrize(("split", "rows"), [("train", 2000), ("test", 1000)])
def test_bundled_images(split, rows, monkeypatch):
    monkeypatch.setenv("COMPANION_DATA_DIR", "/no/such/folder")  # must not matter
    frame = load_images(FASHION, split)
    pixels = np.stack(frame["image"])
    assert pixels.shape == (rows, 32, 32, 3) and pixels.dtype == np.uint8 and frame["label"].dtype == np.int64
    assert np.bincount(frame["label"]).tolist() == [rows // 10] * 10
    assert (pixels == pixels[..., :1]).all() and pixels[:, 2:-2, 2:-2].max() == 255
    edge = pixels.copy()
    edge[:, 2:-2, 2:-2] = 0
    assert not edge.any()
    attrs = frame.attrs
    assert (attrs["task"], attrs["split"], attrs["source"], attrs["rows"], attrs["subset"]) == (FASHION, split, "bundled", rows, True)
    assert len(attrs["class_names"]) == 10 and attrs["classes"] == tuple(range(10))
    assert provenance(frame)["data"]["sha256"] == image_tasks.IMAGE_TASKS[FASHION].splits[split].sha256


def test_bundle_is_small_and_notice_names_it():
    assets = Path(str(known.ASSETS))
    assert sum(path.stat().st_size for path in (assets / FASHION).iterdir()) <= 1_500_000
    assert sum(path.stat().st_size for path in assets.rglob("*") if path.is_file()) <= 15_000_000
    notice = (Path(__file__).parents[1] / "NOTICE").read_text("utf-8")
    assert all(f"companion/assets/{spec.path}" in notice for spec in image_tasks.IMAGE_TASKS[FASHION].splits.values())


def test_maker_draws_the_same_number_of_each_class_and_loses_nothing(tmp_path, monkeypatch):
    import gzip

    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 256, (60, 28, 28), dtype=np.uint8), np.arange(60, dtype=np.uint8) % 10
    for stem in ("train", "t10k"):
        (tmp_path / f"{stem}-images-idx3-ubyte.gz").write_bytes(gzip.compress(bytes(16) + pixels.tobytes()))
        (tmp_path / f"{stem}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(bytes(8) + labels.tobytes()))
    monkeypatch.setattr(make_images, "_DRAWS", {"train": ("train", 3), "test": ("t10k", 2)})
    make_images.main([str(tmp_path), str(tmp_path / "made")])
    drawn, classes = make_images.draw_subset(tmp_path, "train")
    loaded = load_images(tmp_path / "made" / FASHION)
    assert np.array_equal(np.stack(loaded["image"])[..., 0], drawn) and loaded["label"].tolist() == classes.tolist()
    assert np.bincount(classes).tolist() == [3] * 10 and len(load_images(tmp_path / "made" / FASHION, "test")) == 20


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="the package dataset-fashion-mnist is not installed")
def test_bundled_images_are_what_their_maker_draws():
    drawn, labels = make_images.draw_subset(DEBIAN, "test")
    frame = load_images(FASHION, "test")
    assert np.array_equal(np.stack(frame["image"])[:, 2:-2, 2:-2, 0], drawn) and frame["label"].tolist() == labels.tolist()


def test_tampered_images_are_refused(tmp_path, monkeypatch):
    shutil.copytree(str(known.ASSETS), tmp_path / "assets")
    monkeypatch.setattr(known, "ASSETS", tmp_path / "assets")
    path = tmp_path / "assets" / FASHION / "test.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataIntegrityError, match="SHA-256"):
        load_images(FASHION, "test")
    path.unlink()
    with pytest.raises(DataUnavailableError, match="reinstall"):
        load_images(FASHION, "test")


# --- classes


def test_classes_are_kept_in_the_order_asked_for():
    whole, some = load_images(FASHION, "test"), load_images(FASHION, "test", classes=(9, 2, np.int64(5)))
    assert some.attrs["class_names"] == ("ankle boot", "pullover", "sandal") and some.attrs["classes"] == (9, 2, 5)
    assert some.attrs["rows"] == 1000 and list(some.index) == list(range(300))
    for new, old in enumerate((9, 2, 5)):
        kept, source = some[some["label"] == new], whole[whole["label"] == old]
        assert np.array_equal(np.stack(kept["image"]), np.stack(source["image"]))


@pytest.mark.parametrize("classes", [[], [0, 0], [10], [-1], [0.0], ["bag"]])
def test_classes_that_are_none(classes):
    with pytest.raises(ValueError, match=r"classes is .* accepted are distinct integers from 0 to 9"):
        load_images(FASHION, "test", classes=classes)


def test_sample_and_slices_keep_images_and_origin():
    frame = load_images(FASHION, "test", classes=range(3))
    drawn = sample(frame, 20, seed=0)
    assert drawn.attrs == frame.attrs and np.array_equal(drawn["image"].iloc[0], frame["image"][drawn.index[0]])


# --- CIFAR-100: the user's folder, the hub


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_cifar_from_a_folder_whatever_the_encoding(data_dir, kind):
    shown, _ = write_cifar(data_dir, kind=kind)
    frame = load_images("cifar100")
    assert np.array_equal(np.stack(frame["image"]), shown) and frame["label"].tolist() == list(range(12))
    assert frame.attrs["source"] == "folder" and frame.attrs["subset"] is True
    assert frame.attrs["class_names"][:2] == ("apple", "aquarium_fish") and len(frame.attrs["class_names"]) == 100
    assert load_images("cifar100", classes=range(10, 100))["label"].tolist() == [0, 1]


def test_only_the_classes_asked_for_are_decoded(data_dir):
    content = [encoded(picture) for picture in pictures(4, 32, 32)]
    write(data_dir / CIFAR.splits["train"].path, [*content[:3], b"no image"], [0, 1, 0, 2], "img", "fine_label")
    assert len(load_images("cifar100", classes=[0])) == 2
    with pytest.raises(DataIntegrityError, match="train': image 3 of those asked for cannot be decoded"):
        load_images("cifar100")
    with pytest.raises(DataIntegrityError, match="no image of the classes asked for"):
        load_images("cifar100", classes=[7])


@pytest.mark.parametrize("labels", [[0, 100], [-1, 0], [0.5, 1.0]])
def test_labels_out_of_range(data_dir, labels):
    write_cifar(data_dir, 2, labels)
    with pytest.raises(DataIntegrityError, match="'fine_label' .* 'cifar100' has integers from 0 to 99"):
        load_images("cifar100")


def test_cifar_that_is_nowhere_names_the_options(data_dir):
    with pytest.raises(DataUnavailableError) as caught:
        load_images("cifar100", "test")
    for hint in ("holds cifar100/test-00000-of-00001.parquet", "COMPANION_DATA_DIR", FASHION, "uoft-cs/cifar100", "OFFLINE"):
        assert hint in str(caught.value)


def test_cifar_from_the_hub_is_checked(data_dir, tmp_path, monkeypatch):
    _, path = write_cifar(tmp_path / "hub")
    asked = []

    def fetch(*args, **kwargs):
        asked.append((*args, *kwargs.values()))
        return path

    monkeypatch.setattr(known, "fetch", fetch)
    monkeypatch.setattr(known, "forget", lambda path: None)
    with pytest.raises(DataIntegrityError, match="SHA-256"):
        load_images("cifar100")
    assert asked == [("uoft-cs/cifar100", CIFAR.splits["train"].path, CIFAR.revision, "dataset")]
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    task = replace(CIFAR, splits={"train": FileSpec(CIFAR.splits["train"].path, 50000, digest)})
    monkeypatch.setitem(image_tasks.IMAGE_TASKS, "cifar100", task)
    with pytest.raises(DataIntegrityError, match="12 rows, expected 50000"):
        load_images("cifar100")


def test_a_damaged_file_is_forgotten_if_it_came_from_the_hub_and_kept_if_it_is_the_users(data_dir, tmp_path, monkeypatch):
    _, path = write_cifar(tmp_path / "hub")
    monkeypatch.setattr(known, "fetch", lambda *args, **kwargs: path)
    with pytest.raises(DataIntegrityError, match="SHA-256"):
        load_images("cifar100")
    assert not path.exists()  # the next call downloads it afresh
    _, own = write_cifar(data_dir)
    own.write_bytes(own.read_bytes()[:-9])
    with pytest.raises(DataIntegrityError, match="damaged|Parquet"):
        load_images("cifar100")
    assert own.exists()


@pytest.mark.skipif(not FULL or not (Path(FULL) / "cifar100").is_dir(), reason="COMPANION_DATA_DIR holds no cifar100")
def test_full_cifar():
    frame = load_images("cifar100", "test", classes=range(98, 100))
    assert frame.attrs["rows"] == 10000 and frame.attrs["subset"] is False and len(frame) == 200
    assert frame.attrs["class_names"] == ("woman", "worm") and frame["image"][0].shape == (32, 32, 3)
    assert [spec.rows for spec in CIFAR.splits.values()] == [50000, 10000]


# --- a folder of one's own


@pytest.mark.parametrize("as_struct", [True, False])
def test_folder_of_images(tmp_path, as_struct):
    shown = pictures(6, 5, 7)
    content = [encoded(p, kind) for p, kind in zip(shown, ["PNG", "WEBP", "BMP"] * 2, strict=True)]
    write(tmp_path / "train.parquet", content, ["dog", "cat"] * 3, image="photograph", struct=as_struct)
    write(tmp_path / "test.parquet", content[:1], ["dog"], image="photograph", struct=as_struct)
    frame = load_images(tmp_path)
    assert np.array_equal(np.stack(frame["image"]), shown) and frame["label"].tolist() == [1, 0] * 3
    assert frame.attrs["class_names"] == ("cat", "dog") and frame.attrs["source"] == "folder"
    assert load_images(str(tmp_path), "test")["label"].tolist() == [1]
    assert load_images(tmp_path, classes=[1])["label"].tolist() == [0, 0, 0]


def test_folder_with_real_numbers_is_a_regression(tmp_path):
    write(tmp_path / "train.parquet", [encoded(p) for p in pictures(3)], [0.5, 1.5, 2.5])
    frame = load_images(tmp_path)
    assert frame.attrs["class_names"] == ()
    assert next(iter(make_image_dataloader(frame)))["labels"].dtype == torch.float32
    with pytest.raises(ValueError, match=r"classes is \[0\]; accepted are None"):
        load_images(tmp_path, classes=[0])


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def images_that_cannot_be_read():
    """Of a format that is not accepted; broken so that PIL raises a SyntaxError; a header that promises 10^10 pixels."""
    good = encoded(pictures(1)[0])
    huge = good[:8] + chunk(b"IHDR", struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)) + chunk(b"IDAT", zlib.compress(b"0"))
    start, length = good.index(b"IDAT") + 4, struct.unpack(">I", good[good.index(b"IDAT") - 4 :][:4])[0]
    half = good[start : start + length // 2]
    broken = good[: start - 8] + chunk(b"IDAT", half) + chunk(b"\x00\x01\x02\x03", half)
    return {"gif": encoded(pictures(1)[0], "GIF"), "tiff": encoded(pictures(1)[0], "TIFF"), "broken": broken, "huge": huge}


@pytest.mark.parametrize("kind", ["gif", "tiff", "broken", "huge"])
def test_an_image_that_cannot_be_read_is_named_with_what_is_accepted(kind, tmp_path):
    content = [encoded(pictures(1)[0]), images_that_cannot_be_read()[kind]]
    write(tmp_path / "train.parquet", content, [0, 1])
    with pytest.raises(DataIntegrityError, match="image 1 of those asked for cannot be decoded: .*accepted are PNG, WEBP, JPEG, BMP"):
        load_images(tmp_path)


def test_what_is_wrong_with_a_folder(tmp_path):
    content = [encoded(p) for p in pictures(2)]
    cases = {
        "no columns of images": {"text": ["a", "b"], "label": [0, 1]},
        "2 columns of images": {"a": content, "b": content, "label": [0, 1]},
        "one column 'label'": {"a": content, "class": [0, 1]},
        "'a' has 1 missing values": {"a": [content[0], None], "label": [0, 1]},
        "goes from 1 to 2 without 0": {"a": content, "label": [1, 2]},
        "cannot be decoded": {"a": [content[0], content[1][:20]], "label": [0, 1]},
        "is 4 x 8 pixels and the first one 8 x 8": {"a": [content[0], encoded(pictures(1, 4)[0])], "label": [0, 1]},
    }
    for message, columns in cases.items():
        pd.DataFrame(columns).to_parquet(tmp_path / "train.parquet")
        with pytest.raises(DataIntegrityError, match=message):
            load_images(tmp_path)
    with pytest.raises(DataUnavailableError, match="and the names cifar100, fashion-mnist-mini"):
        load_images(tmp_path / "absent")


def test_names_that_are_not_known(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("cifar10", "qnli-mini", "", None):
        with pytest.raises(ValueError, match="unknown image data set .* known are cifar100, fashion-mnist-mini"):
            load_images(name)
    with pytest.raises(ValueError, match="no split 'validation'; it has train, test"):
        load_images(FASHION, "validation")
    with pytest.raises(ValueError, match="'cifar100' holds images; `load_images`"):
        load_task("cifar100")


# --- batches


def frame_of(n=10, height=8, width=8):
    return pd.DataFrame({"image": list(pictures(n, height, width)), "label": np.arange(n)})


def test_batches_are_normalised_and_in_order():
    frame = frame_of(height=6)
    one, two = make_image_dataloader(frame, batch_size=6)
    assert one["pixel_values"].shape == (6, 3, 6, 8) and one["pixel_values"].dtype == torch.float32
    assert one["labels"].tolist() == list(range(6)) and two["labels"].tolist() == list(range(6, 10))
    back = (one["pixel_values"][3].permute(1, 2, 0) + 1) * 127.5
    assert np.allclose(back, frame["image"][3], atol=1e-4)
    extremes = pd.DataFrame({"image": [np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 255, np.uint8)], "label": [0, 1]})
    values = next(iter(make_image_dataloader(extremes)))["pixel_values"]
    assert (values[0] == -1).all() and (values[1] == 1).all()


def test_order_with_seed_is_new_in_each_pass_and_reproducible():
    one, two, other = (make_image_dataloader(frame_of(40), 8, seed=seed, augment=True) for seed in (4, 4, 5))
    passes = [[list(one), list(one)], [list(two), list(two)], [list(other)]]
    for a, b in zip(passes[0], passes[1], strict=True):
        assert all(torch.equal(x[key], y[key]) for x, y in zip(a, b, strict=True) for key in x)
    labels = [[label for batch in done for label in batch["labels"].tolist()] for kind in passes for done in kind]
    assert all(sorted(order) == list(range(40)) for order in labels)
    assert labels[0] != labels[1] and labels[0] != labels[4]


def test_the_seed_draws_the_crops_too():
    """The same picture 40 times, so that the order does not show."""
    frame = pd.DataFrame({"image": list(np.repeat(pictures(1), 40, 0)), "label": np.zeros(40, int)})
    one, again, other = (torch.cat([b["pixel_values"] for b in make_image_dataloader(frame, 8, seed=s, augment=True)]) for s in (4, 4, 5))
    assert torch.equal(one, again) and not torch.equal(one, other)


def test_augmentation_shifts_by_up_to_four_pixels_and_flips_half():
    picture = np.zeros((32, 32, 3), np.uint8)
    picture[12, 20] = 200
    many = np.repeat(picture[None], 4000, 0)
    found = image_batches.augmented(many, np.random.default_rng(0))
    assert np.array_equal(many[0], picture) and (found.reshape(4000, -1).sum(1) == 600).all()
    row, column = np.nonzero(found[..., 0])[1:]
    assert set(row) == set(range(8, 17))
    unflipped = column >= 16
    assert set(column[unflipped]) == set(range(16, 25)) and set(column[~unflipped]) == set(range(7, 16))
    assert abs(unflipped.mean() - 0.5) < 0.03 and abs(np.mean(row) - 12) < 0.2


def test_batches_leave_the_global_random_state_alone():
    loader = make_image_dataloader(frame_of(), seed=0, augment=True)
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    list(loader)
    assert torch.equal(state, torch.get_rng_state()) and np.array_equal(numpy_state, np.random.get_state()[1])


def test_resized_batches():
    values = next(iter(make_image_dataloader(frame_of(2), size=224)))["pixel_values"]
    assert values.shape == (2, 3, 224, 224) and values.min() >= -1 and values.max() <= 1


def test_workers_give_the_same_batches():
    here, there = (make_image_dataloader(frame_of(), 4, seed=2, num_workers=n) for n in (0, 1))
    for one, two in zip(here, there, strict=True):
        assert all(torch.equal(one[key], two[key]) for key in one)


def test_batches_name_what_is_wrong():
    frame = frame_of()
    for argument in ("batch_size", "size"):
        with pytest.raises(ValueError, match=f"{argument} is 0; it must be at least 1"):
            make_image_dataloader(frame, **{argument: 0})
    for bad in (frame[:0], frame.drop(columns="label"), frame.rename(columns={"image": "img"})):
        with pytest.raises(ValueError, match="images has .* it needs rows, 'image' and 'label'"):
            make_image_dataloader(bad)
    with pytest.raises(ValueError, match="images of shapes .* accepted: one shape"):
        make_image_dataloader(pd.concat([frame, frame_of(height=4)]))
    for options in ({}, {"seed": 0, "num_workers": 1}):
        with pytest.raises(ValueError, match="augment is True with seed .* it needs an integer seed and no workers"):
            make_image_dataloader(frame, augment=True, **options)


# --- models


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny-vit"
    tiny_vit().half().save_pretrained(folder)
    return folder


def test_vit_from_a_folder_gets_a_new_head(tiny):
    model = load_model(tiny, n_labels=7, seed=3)
    assert isinstance(model, transformers.ViTForImageClassification) and not model.training
    assert model.classifier.weight.shape == (7, 32) and {p.dtype for p in model.parameters()} == {torch.float32}
    assert torch.equal(model.classifier.weight, load_model(tiny, n_labels=7, seed=3).classifier.weight)
    assert not torch.equal(model.classifier.weight, load_model(tiny, n_labels=7, seed=4).classifier.weight)
    stored, loaded = tiny_vit().vit.state_dict(), model.vit.state_dict()
    assert all(torch.equal(loaded[name], value.half().float()) for name, value in stored.items())


def test_vit_without_a_head_as_the_hub_has_it(tmp_path):
    transformers.ViTModel(tiny_vit().config).save_pretrained(tmp_path)  # with a pooler, and names without the prefix
    model, stored = load_model(tmp_path, n_labels=5), transformers.ViTModel.from_pretrained(tmp_path).state_dict()
    loaded = model.vit.state_dict()
    assert loaded and all(torch.equal(value, stored[name]) for name, value in loaded.items())


def test_vit_in21k_by_its_bare_name_is_pinned(monkeypatch, tiny):
    asked = []

    def fetch(repo, filename, revision):
        asked.append((repo, revision))
        return tiny / filename

    monkeypatch.setattr(sources, "fetch", fetch)
    for name in ("vit-base-patch16-224-in21k", "google/vit-base-patch16-224-in21k"):
        load_model(name, n_labels=2)
    assert {repo for repo, _ in asked} == {"google/vit-base-patch16-224-in21k"}
    assert asked[0][1] == "b4569560a39a0f1af58e3ddaf17facf20ab919b0"


def test_bundled_vit_is_verified(monkeypatch, tiny, tmp_path):
    monkeypatch.setattr(sources, "ASSETS", tmp_path)
    with pytest.raises(DataUnavailableError, match="python -m companion.book.pretrain_vit"):
        load_model("vit-cifar50", n_labels=10)
    shutil.copytree(tiny, tmp_path / "vit-cifar50")
    with pytest.raises(DataIntegrityError, match="SHA-256"):
        load_model("vit-cifar50", n_labels=10)
    digest = hashlib.sha256((tiny / "model.safetensors").read_bytes()).hexdigest()
    monkeypatch.setattr(sources, "VIT_CIFAR50_SHA256", digest)
    assert load_model("vit-cifar50", n_labels=10).classifier.out_features == 10


# --- fine-tuning on real images


@pytest.fixture(scope="module")
def vit_32(tmp_path_factory):
    """Random weights, for 32 x 32 images, large enough for LoRA to have something to steer."""
    folder = tmp_path_factory.mktemp("models") / "vit-32"
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = transformers.ViTConfig(image_size=32, patch_size=8, initializer_range=0.2, **sizes)
        transformers.ViTForImageClassification(config).save_pretrained(folder)
    return folder


def test_accuracy_rises_in_a_few_steps(vit_32):
    train, test = (load_images(FASHION, split, classes=(1, 7, 8)) for split in ("train", "test"))
    model = load_model(vit_32, n_labels=3)
    config = LoraConfig(r=4, target_modules="all-linear", exclude_modules=["classifier"], modules_to_save=["classifier"])
    adapted, held_out = get_peft_model(model, config), make_image_dataloader(test, 100)
    before = evaluate(adapted, held_out, FASHION)
    result = finetune(adapted, make_image_dataloader(train, 32, seed=0, augment=True), epochs=2, learning_rate=1e-2)
    after = evaluate(adapted, held_out, FASHION)
    assert set(after) == {"loss", "accuracy"} and result["steps"] == 2 * 19
    assert after["accuracy"] > max(0.7, before["accuracy"] + 0.2) and after["loss"] < before["loss"]


def test_head_and_gradients_of_a_vit(vit_32):
    model = load_model(vit_32, n_labels=3)
    batches = make_image_dataloader(load_images(FASHION, "test", classes=(1, 7, 8))[:90], 30)
    cold = evaluate(model, batches)["loss"]
    assert warm_up_head(model, batches) > 0.6 and evaluate(model, batches)["loss"] < cold
    names = [name for name, module in model.vit.named_modules() if isinstance(module, torch.nn.Linear)]
    found = mean_gradients(model, batches, [f"vit.{names[0]}"], flips=0)
    assert all(gradient.mean.norm() > 0 for gradient in found.values())


def test_sixteen_bits_are_refused_and_a_turned_photograph_is_turned_back(tmp_path):
    deep, turned = io.BytesIO(), io.BytesIO()
    Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000).save(deep, "PNG")
    picture = Image.fromarray(pictures(1)[0])
    exif = picture.getexif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    picture.save(turned, "PNG", exif=exif)
    for name, content in (("deep", deep), ("turned", turned)):
        (tmp_path / name).mkdir()
        pd.DataFrame({"image": [content.getvalue()] * 2, "label": [0, 1]}).to_parquet(tmp_path / name / "train.parquet")
    with pytest.raises(DataIntegrityError, match="its mode is 'I;16', and 8 bits"):
        load_images(tmp_path / "deep")
    assert np.array_equal(load_images(tmp_path / "turned")["image"][0], np.rot90(pictures(1)[0], -1))


@pytest.mark.parametrize("image", [np.zeros((8, 8, 3)), np.zeros((3, 8, 8), np.uint8), np.zeros((8, 8), np.uint8)])
def test_images_of_another_kind_are_refused(image):
    frame = pd.DataFrame({"image": [image, image], "label": [0, 1]})
    with pytest.raises(ValueError, match=r"accepted: uint8 \(0 to 255\) and \(height, width, 3\)"):
        make_image_dataloader(frame)


def test_smaller_images_keep_their_mean():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[::4] = 255
    frame = pd.DataFrame({"image": [stripes], "label": [0]})
    batch = next(iter(make_image_dataloader(frame, size=16)))["pixel_values"]
    assert abs(batch.mean() - (255 / 4 / 127.5 - 1)) < 0.05
