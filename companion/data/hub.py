"""Single files from the hub, with errors that come soon and say what was asked for.

`huggingface_hub` does the transfer and keeps the cache (a file appears under its name only when it is complete). Added
here: the environment is read at call time, a dead connection is reported at once instead of after many retries, and a
server that cuts off every attempt does not keep us in a loop.
"""

import hashlib
import os
import re
from functools import cache
from pathlib import Path

from .errors import DataUnavailableError

ETAG_TIMEOUT = 8  # seconds to wait for the server's first answer
_COMMIT = re.compile(r"[0-9a-f]{40}")


class MissingFileError(DataUnavailableError):
    """The hub was reached and has no such file."""


def fetch(repo_id: str, filename: str, revision: str, repo_type: str = "model") -> Path:
    """Return the local path of one file of a hub repository, downloading it when it is not in the cache.

    Parameters
    ----------
    repo_id, filename, revision : str
        What to fetch. A file of a 40-digit commit that is in the cache is returned without asking the hub.
    repo_type : str
        ``"model"`` or ``"dataset"``.

    Returns
    -------
    Path
        The file inside the hub cache; the name of its snapshot folder is the commit it belongs to.

    Raises
    ------
    MissingFileError
        If the hub answers that the repository, the revision or the file does not exist (404).
    DataUnavailableError
        If the file is neither in the cache nor obtainable.
    """
    wanted = f"{repo_type} {repo_id}, file {filename}, revision {revision}"
    cached = _cached(repo_id, filename, revision, repo_type)
    if _offline() and cached is None:
        raise DataUnavailableError(f"{wanted} is not in the cache {_cache_dir()} and HF_HUB_OFFLINE is set")
    if cached is not None and (_offline() or _COMMIT.fullmatch(revision)):
        return cached
    try:
        return _download(repo_id, filename, revision, repo_type)
    except _transfer_errors() as error:
        if getattr(getattr(error, "response", None), "status_code", None) == 404:
            raise MissingFileError(f"{wanted} does not exist on {_endpoint_name()} (404)") from error
        if cached is not None:
            return cached  # a branch name, and the hub cannot be asked where it points now
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise DataUnavailableError(f"{wanted} could not be fetched from {_endpoint_name()} ({reason})") from error


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def forget(path: Path) -> None:
    """Remove a file from the hub cache: the link in the snapshot and the blob it points to."""
    while path.is_symlink():
        target = path.parent / os.readlink(path)
        path.unlink()
        path = target
    path.unlink(missing_ok=True)


def _download(repo_id: str, filename: str, revision: str, repo_type: str) -> Path:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or None
    url = hf_hub_url(repo_id, filename, repo_type=repo_type, revision=revision, endpoint=endpoint)
    # One quick question first: hf_hub_download alone would retry a dead connection for a minute or more.
    get_hf_file_metadata(url, timeout=ETAG_TIMEOUT, endpoint=endpoint)
    path = hf_hub_download(
        repo_id,
        filename,
        repo_type=repo_type,
        revision=revision,
        endpoint=endpoint,
        cache_dir=_cache_dir(),
        etag_timeout=ETAG_TIMEOUT,
        tqdm_class=_bounded_progress(),
    )
    return Path(path)


@cache
def _bounded_progress() -> type:
    """Progress bar that ends a download which has received twice the file's size.

    The hub client starts again whenever a connection breaks after some data, without limit.
    """
    from huggingface_hub.utils import tqdm

    class BoundedProgress(tqdm):
        received = 0

        def update(self, n: float | None = 1) -> bool | None:
            self.received += max(n or 0, 0)
            if self.total and self.received > 2 * self.total:
                raise ConnectionError(f"the connection broke again and again ({self.total} bytes wanted)")
            return super().update(n)

    return BoundedProgress


def _cached(repo_id: str, filename: str, revision: str, repo_type: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo_id, filename, cache_dir=_cache_dir(), revision=revision, repo_type=repo_type)
    return Path(found) if isinstance(found, str) else None


def _transfer_errors() -> tuple[type[Exception], ...]:
    """Everything a failing transfer raises; RuntimeError is how the hub's native client reports failures."""
    from huggingface_hub.errors import HfHubHTTPError

    return OSError, RuntimeError, *HfHubHTTPError.__bases__


def _cache_dir() -> Path:
    """The hub cache folder according to the environment as it is now."""
    home = os.environ.get("HF_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    folder = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE") or os.path.join(home, "hub")
    return Path(os.path.expandvars(folder)).expanduser()


def _offline() -> bool:
    value = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return value.upper() in {"1", "ON", "YES", "TRUE"}


def _endpoint_name() -> str:
    return os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
