"""Every family's graph for TensorRT: linted, parsed and built by TensorRT-RTX, its numbers in onnxruntime inside the bounds."""

import pytest

from edgekd import trtcheck
from tests.tolerances import TELLING_SPREAD
from tests.trtnetworks import NETWORKS, TARGETS, floated, pictures, shipped, spread

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not trtcheck.available(), reason=f"needs tensorrt-rtx-cu13: {trtcheck.INSTALL}"),
]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_becomes_a_file_that_tensorrt_builds(name, tmp_path):
    data = pictures(tmp_path)
    source = floated(name, data, tmp_path)
    assert spread(source) > TELLING_SPREAD
    for target in TARGETS:
        facts = shipped(target, data, source, tmp_path)  # the stages refuse what is outside the bounds
        assert facts["tool"]["checked"] and not facts["tool"]["errors"]
        assert not [w for w in facts["tool"]["warnings"] if any(word in w for word in trtcheck.RETYPED)]
        assert facts["metrics"]["n_lint_warnings"] == 0
        assert (facts["quantize"] > 0) == (target == "tensorrt-int8"), "Q/DQ in the int8 file alone"
