"""The fake board and a small chain for it, each made once a session; without `make test-board` every test here is skipped."""

from __future__ import annotations

import os

import pytest
from filelock import FileLock

from tests.board import board as boards
from tests.board import build, world


def root_of(name):
    """The root file system of a suite, or a skip that says what is missing."""
    if "EDGEKD_BOARD" not in os.environ:
        pytest.skip("needs the fake board: make test-board")
    suite = build.SUITES[name]
    if not (suite.folder / "built.json").is_file():
        pytest.skip(f"needs {suite.folder}: python -m tests.board.build {name}")
    return suite.root


@pytest.fixture(scope="session")
def board(tmp_path_factory):
    """A Jetson Orin Nano with Python 3.11."""
    root = root_of("bookworm")
    with boards.running(tmp_path_factory.mktemp("board"), root) as running:
        yield running


@pytest.fixture(scope="session")
def old_board(tmp_path_factory):
    """The same with the oldest Python to be had."""
    root = root_of("bullseye")
    with boards.running(tmp_path_factory.mktemp("old-board"), root) as running:
        yield running


@pytest.fixture(scope="session")
def chain_source(tmp_path_factory, worker_id):
    """A workspace with an exported student, made by the first of the workers that needs it."""
    shared = tmp_path_factory.getbasetemp()
    folder = (shared if worker_id == "master" else shared.parent) / "exported"
    with FileLock(f"{folder}.lock"):
        if not (folder / "made").exists():
            world.exported(folder)
            (folder / "made").touch()
    return folder
