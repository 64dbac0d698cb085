"""Fixtures of several test files; imports of models are inside, since the tests of the site need none of them."""

import os

import pytest
from hypothesis import settings

# A gate gives the same answer twice; `make explore` draws new examples.
settings.register_profile("gate", derandomize=True)
settings.register_profile("explore", derandomize=False, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "gate"))


@pytest.fixture(scope="session")
def lively_folder(tmp_path_factory):
    """A random BERT of the smallest size whose attention does something."""
    from tiny_models import save_bert

    return save_bert(tmp_path_factory.mktemp("lively-bert"), initializer_range=0.2)


@pytest.fixture
def data_dir(tmp_path, monkeypatch):
    """An empty data folder named by COMPANION_DATA_DIR, and a hub that cannot be reached."""
    monkeypatch.setenv("COMPANION_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "data").mkdir()
    return tmp_path / "data"
