"""The runner on the oldest arm64 Python to be had: CPython 3.9 with NumPy 1.21 and ONNX Runtime 1.19, emulated."""

import json

import numpy as np
import pytest
from PIL import Image

from edgekd.stages.bench_bundle import build_runner
from tests.unit.runner.digit_bundle import BundleFolder, logits_of

pytestmark = pytest.mark.device
MOST_BYTES = 100_000  # of runner.pyz
ASKED = 5  # images
LOGIT = 1e-5  # float32 sums of 64 products in another order, relative to the logits' range


@pytest.fixture(scope="module")
def bundle(old_board):
    """A bundle, the runner and a folder of images in the board's home."""
    folder, photos = old_board.file("root/bundle"), old_board.file("root/photos")
    folder.mkdir()
    photos.mkdir()
    build_runner(old_board.file("root/runner.pyz"))
    made = BundleFolder(folder)
    for i in range(ASKED):
        Image.fromarray(made.images[i, :, :, 0]).save(photos / f"{i}.png")
    return made


def lines(done):
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_it_is_as_old_as_is_said(old_board):
    source = "import numpy, onnxruntime as o, platform as p; print(p.machine(), p.python_version(), numpy.__version__, o.__version__)"
    said = old_board.run(f"python3 -c '{source}'")
    assert said.stdout.split() == ["aarch64", "3.9.2", "1.21.6", "1.19.2"], said.stderr


def test_its_size(bundle, old_board):
    assert 10_000 < old_board.file("root/runner.pyz").stat().st_size < MOST_BYTES


def test_selftest(bundle, old_board):
    assert lines(old_board.run("python3 runner.pyz selftest bundle"))


def test_probe_names_the_machine(bundle, old_board):
    (found,) = lines(old_board.run("python3 runner.pyz probe"))
    assert found["machine"]["architecture"] == "aarch64" and found["machine"]["python"] == "3.9.2"


def test_bench_answers_as_numpy_does(old_board, bundle):
    lines(old_board.run("python3 runner.pyz bench bundle out"))
    result = json.loads(old_board.file("root/out/result.json").read_text())
    assert result["kind"] == "emulated" and "emulated: correctness only" in result["reasons"]
    expected = logits_of(bundle.images, bundle.weights, bundle.bias)[bundle.rows]
    with np.load(old_board.file("root/out/predictions.npz")) as file:
        np.testing.assert_allclose(file["logits"], expected, rtol=2e-3, atol=2e-2)  # kept as float16


def test_predict_a_folder_of_png(old_board, bundle):
    said = lines(old_board.run("python3 runner.pyz predict bundle photos"))
    expected = logits_of(bundle.images[:ASKED], bundle.weights, bundle.bias)
    found = np.asarray([line["logits"] for line in said])
    np.testing.assert_allclose(found, expected, atol=LOGIT * np.ptp(expected))
    assert [line["label"] for line in said] == [str(i) for i in expected.argmax(axis=1)]


def test_serve_stdin(old_board, bundle):
    requests = "".join(json.dumps({"id": i, "path": f"photos/{i}.png"}) + "\n" for i in range(ASKED))
    old_board.file("root/requests").write_text(requests + "nonsense\n")
    *said, last = lines(old_board.run("python3 runner.pyz serve-stdin bundle < requests"))
    expected = logits_of(bundle.images[:ASKED], bundle.weights, bundle.bias).argmax(axis=1)
    assert [(line["id"], line["label"]) for line in said] == [(i, str(best)) for i, best in enumerate(expected)]
    assert last["error"]["exit_code"] == 2


def test_a_changed_byte_is_refused_before_anything_is_loaded(old_board, bundle):
    path = old_board.file("root/bundle/model.onnx")
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    done = old_board.run("python3 runner.pyz selftest bundle")
    path.write_bytes(content)
    assert done.returncode == 6 and "model.onnx" in done.stderr
