"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest

# Tests see no workspace of the user's. Not a fixture: one of a wider scope would run before it.
os.environ.pop("EDGEKD_WORKSPACE", None)
os.environ["EDGEKD_CONFIG"] = str(Path(__file__).with_name("no-config"))  # nor boards


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The first folder of EDGEKD_DATA with CIFAR-10 and the published checkpoints; skips by name where it is absent."""
    for part in os.environ.get("EDGEKD_DATA", "").split(os.pathsep):
        root = Path(part)
        if part and (root / "data" / "cifar10").is_dir() and (root / "pretrained").is_dir():
            return root.resolve()
    pytest.skip("needs data/cifar10 and pretrained under EDGEKD_DATA")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """With EDGEKD_REQUIRE_DATA=1 a skipped data test is a failed one."""
    report = yield
    if report.skipped and item.get_closest_marker("data") and os.environ.get("EDGEKD_REQUIRE_DATA") == "1":
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, and EDGEKD_REQUIRE_DATA=1 says the data is there"
    return report
