"""The builder's own lines, run by TensorRT-RTX, which parses and builds without a GPU: another product, the same API where used."""

import sys

import onnx
import pytest

from edgekd import trtcheck
from edgekd.runner.failure import STAGE_FAILED, USAGE, RunnerError
from edgekd.runner.trt import build, options
from tests.lintgraphs import half, quantized

pytestmark = pytest.mark.skipif(not trtcheck.available(), reason=f"needs tensorrt-rtx-cu13: {trtcheck.INSTALL}")


@pytest.fixture(scope="module")
def rtx():
    """TensorRT-RTX whose builder names a chip, for there is none to look up; everything else is the package's own."""
    import tensorrt_rtx

    class Builder(tensorrt_rtx.Builder):
        def create_builder_config(self):
            config = super().create_builder_config()
            config.num_compute_capabilities = 1
            config.set_compute_capability(tensorrt_rtx.ComputeCapability.SM86, 0)
            return config

    class Module:
        def __getattr__(self, name):
            return Builder if name == "Builder" else getattr(tensorrt_rtx, name)

    return Module()


def saved(model, folder):
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


def engine(rtx, path, folder, **given):
    return build.engine(rtx, path, options.read(given), build.logger(rtx), folder / "timing.cache")


@pytest.mark.parametrize("model", [quantized, half])
def test_an_engine_is_built_by_these_very_lines(rtx, model, tmp_path, capsys):
    plan = engine(rtx, saved(model(), tmp_path), tmp_path, workspace_mib=64, optimization_level=1, max_batch=16)
    assert plan.nbytes > 1000 and len(bytes(memoryview(plan))) == plan.nbytes
    assert "built in" in capsys.readouterr().err
    assert not (tmp_path / "timing.cache").exists() or (tmp_path / "timing.cache").stat().st_size > 0


def test_networks_are_strongly_typed(rtx):
    assert build.creation_flags(rtx, options.Options()) == 1 << int(rtx.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


def test_a_refusal_is_told_in_the_parsers_words(rtx, tmp_path):
    import numpy as np

    with pytest.raises(RunnerError) as caught:
        engine(rtx, saved(quantized(bias=np.int32), tmp_path), tmp_path)
    assert caught.value.exit_code == STAGE_FAILED and "Int32" in caught.value.found and "\n" not in caught.value.found


def test_a_free_size_beside_the_batch_is_refused(rtx, tmp_path):
    model = quantized()
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    with pytest.raises(RunnerError) as caught:
        engine(rtx, saved(model, tmp_path), tmp_path)
    assert caught.value.exit_code == USAGE and "-1" in caught.value.found


def test_it_never_came_into_this_process_unasked():
    assert "tensorrt" not in sys.modules
