"""A home whose chain has every kind of artifact, and copies of it."""

import shutil
from types import SimpleNamespace

import pytest
import yaml
from provenchain import CHAIN, STEPS, call, chain_of


@pytest.fixture(scope="session")
def proven(tmp_path_factory):
    """A home whose chain has every kind of artifact; no test changes it."""
    home = tmp_path_factory.mktemp("proven")
    (home / "tiny.yaml").write_text(yaml.safe_dump(CHAIN))
    steps = chain_of(home, "run", "--recipe", "tiny.yaml")
    assert tuple(steps) == STEPS
    return SimpleNamespace(home=home, steps=steps)


@pytest.fixture
def home(proven, tmp_path):
    """A copy that may be spoilt and gone on with."""
    shutil.copytree(proven.home, tmp_path / "home")
    return tmp_path / "home"


@pytest.fixture
def edgekd(home):
    """A command on that copy."""
    return lambda *argv: call(home, *argv, "--workspace", "w")
