"""The onnxruntime quantizer: its schemes, its calibration methods, what it refuses."""

import numpy as np
import onnx
import pytest

from edgekd import onnxrun, registry
from edgekd.analysis.parity import int8_parity
from edgekd.data import normalize, roles
from edgekd.errors import RecipeError
from edgekd.quantizers import calibrate as calibrating
from edgekd.quantizers import ptq
from edgekd.quantizers.ptq import PTQ
from tests.onnxtoys import ROLES, chain
from tests.tolerances import TOY_INT8_SQNR_DB

NORM = ((0.5, 0.45, 0.4), (0.25, 0.2, 0.3))


@pytest.fixture(scope="module")
def images():
    """100 normalised training images."""
    return normalize.apply(roles.split(chain().data, ROLES).images("train")[:100], *NORM)


def _quantize(out, images, size, calibrate="entropy", scheme="u8s8"):
    batches = (images[start : start + size] for start in range(0, len(images), size))
    return PTQ(calibrate).quantize(chain().graph.path / "model.onnx", out, calibration=batches, scheme=scheme)


@pytest.mark.parametrize("calibrate", ptq.CANDIDATES)
def test_every_method_keeps_the_answers_whatever_the_batches(calibrate, images, tmp_path):
    files = [_quantize(tmp_path / f"{size}.onnx", images, size, calibrate) for size in (100, 32, 7)]
    assert len({path.read_bytes() for path in files}) == 1
    test = roles.split(chain().data, ROLES).images("test")
    graph = chain().graph.path / "model.onnx"
    report = int8_parity(*(onnxrun.evaluate_onnx(path, test.images, test.rows, *NORM) for path in (graph, files[0])))
    assert report.passed
    assert report.sqnr_db > TOY_INT8_SQNR_DB


def test_the_images_decide_the_ranges(images, tmp_path):
    first = _quantize(tmp_path / "a.onnx", images[:50], 50, "minmax").read_bytes()
    second = _quantize(tmp_path / "b.onnx", images[50:], 50, "minmax").read_bytes()
    assert first != second


def test_no_image_is_refused_and_nothing_is_made_up(tmp_path):
    for calibration in ([], [np.empty((0, 3, 12, 12), dtype=np.float32)]):
        with pytest.raises(RecipeError, match="no calibration image"):
            PTQ().quantize(
                chain().graph.path / "model.onnx", tmp_path / "q.onnx", calibration=calibration, scheme="u8s8"
            )
    assert not list(tmp_path.iterdir())


def test_an_unknown_scheme_names_the_nearest(images, tmp_path):
    with pytest.raises(RecipeError, match="did you mean 'u8s8'"):
        _quantize(tmp_path / "q.onnx", images, 50, scheme="u8s")


def test_more_activations_than_memory_are_refused_before_the_first_one(images, tmp_path, monkeypatch):
    monkeypatch.setattr(calibrating, "HELD_BYTES", 2**20)
    with pytest.raises(RecipeError, match=r"GiB(.|\n)*calibrate=minmax"):
        _quantize(tmp_path / "q.onnx", images, 50, "percentile")
    _quantize(tmp_path / "q.onnx", images, 50, "minmax")


def test_what_is_held_is_counted_right(images, tmp_path):
    """Against the sizes that onnxruntime itself gives for every intermediate value of one image."""
    model = onnx.shape_inference.infer_shapes(onnx.load(chain().graph.path / "model.onnx"))
    names = [
        value.name for value in model.graph.value_info if value.name not in {t.name for t in model.graph.initializer}
    ]
    del model.graph.output[:]
    model.graph.output.extend(value for value in model.graph.value_info if value.name in names)
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    held = sum(value.nbytes for value in session.run(None, {"input": images[:1]}))
    onnx.save(model, tmp_path / "m.onnx")
    assert held > 0
    assert calibrating.held_bytes(onnx.load(tmp_path / "m.onnx"), 1) == held


@pytest.mark.parametrize("wrong", ["distribution", "Entropy", ""])
def test_unknown_methods_are_refused(wrong):
    with pytest.raises(RecipeError):
        registry.check("quantizers", "ptq", {"calibrate": wrong}, "quantize")
    with pytest.raises(RecipeError):
        PTQ(wrong)


def test_it_prints_nothing(images, tmp_path, capfd):
    _quantize(tmp_path / "q.onnx", images, 50)
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")
