"""Every fault of the table: its own exit code, its own words, nothing lost."""

import pytest

from tests.board import faults
from tests.board.world import around

pytestmark = pytest.mark.device


@pytest.fixture(scope="module")
def world(board, chain_source, tmp_path_factory):
    with around(board, tmp_path_factory.mktemp("faults") / "world", chain_source) as made:
        yield made


def test_there_are_twelve_and_more():
    assert len(faults.FAULTS) >= 12
    assert len({fault.says for fault in faults.FAULTS.values()}) == len(faults.FAULTS)


@pytest.mark.parametrize("name", faults.FAULTS)
def test_fault(world, name):
    try:
        faults.meet(world, name)
    except faults.Skipped as missing:
        pytest.skip(str(missing))
