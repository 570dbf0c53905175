"""Fixtures of the runner's tests."""

import copy

import pytest
from digit_bundle import BundleFolder

from edgekd.runner import state


@pytest.fixture
def bundle(tmp_path):
    """A whole bundle in a folder of its own."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    return BundleFolder(folder)


@pytest.fixture
def calm(board):
    """Two snapshots of a test's board, ten seconds apart, with nothing but our own work between them."""
    before = state.snapshot(board)
    after = copy.deepcopy(before)
    after["clock_s"] += 10
    after["own_cpu_s"] += 9
    after["all_cpu_s"]["busy"] += 9.2
    return before, after


@pytest.fixture
def brief(monkeypatch):
    """Profiles that measure for a twentieth of a second: the program is the same, its figures are not for use."""
    from edgekd.runner import measure

    monkeypatch.setattr(measure, "WARM_LEAST_S", 0.01)
    for name in measure.PROFILES:
        monkeypatch.setitem(measure.PROFILES, name, measure.Profile(64, 0.05, 0.01))
