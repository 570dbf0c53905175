"""`predict` and `serve-stdin` on real images, against the host's `edgekd predict` on the same file."""

import base64
import hashlib
import io
import json
import subprocess
import sys

import numpy as np
import pytest
from digit_bundle import MEAN, PARAMS, STD, classifier, digits, linear_onnx, logits_of
from PIL import Image
from tolerances import RUNNER_PROBABILITY

from edgekd.commands import predict as host
from edgekd.runner import __main__ as program
from edgekd.runner.__main__ import main
from edgekd.stages.bench_bundle import lay_bundle
from edgekd.store import Store


def export(workspace, resize=None):
    """A sealed export artifact of the digits' linear classifier."""
    images, labels = digits()
    weights, bias = classifier(images[:1000], labels[:1000])
    store, key = Store(workspace), hashlib.sha256(b"export").hexdigest()
    scratch = store.begin("export/onnx", key)
    linear_onnx(scratch.out / "model.onnx", weights, bias)
    np.savez(scratch.out / "golden.npz", images=images[:4], logits=logits_of(images[:4], weights, bias))
    facts = {"height": 8, "width": 8, "channels": 1, "classes": [f"digit {i}" for i in range(10)]}
    normalize = {"mean": MEAN, "std": STD}
    (scratch.out / "model.json").write_text(json.dumps({**facts, "normalize": normalize}))
    recipe = {"data": {"use": "digits", "resize": resize}}
    facts = {"metrics": {}, "inputs": {}, "params": {"scheme": "none"}, "recipe": recipe}
    return store.seal(scratch, "export/onnx", key, ("model.onnx",), facts)


def deploy(artifact, folder):
    lay_bundle(PARAMS, {"export": artifact}, folder, share=False, kind="deploy", runner=True)
    return folder


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    """(export artifact, workspace, deployment bundle with runner.pyz, folder of PNGs: digits of the test set, and photos of them)."""
    folder = tmp_path_factory.mktemp("shipped")
    artifact = export(folder / "ws")
    pictures = folder / "images"
    pictures.mkdir()
    images, _ = digits()
    for row in range(1200, 1230):
        small = Image.fromarray(images[row, ..., 0])
        # As they are, larger, at another aspect, and in colour.
        ways = [small, small.resize((40, 40)), small.resize((30, 17)), small.resize((33, 64)).convert("RGB")]
        ways[row % 4].save(pictures / f"{row}.png")
    return artifact, folder / "ws", deploy(artifact, folder / "bundle"), pictures


def lines(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def start(*argv, text=""):
    done = subprocess.run([sys.executable, "-I", *map(str, argv)], input=text, capture_output=True, text=True)
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def test_a_deployment_bundle_is_whole_and_has_no_test_images(shipped):
    *_, bundle, _ = shipped
    said = json.loads((bundle / "bundle.json").read_text())
    assert sorted(path.name for path in bundle.iterdir()) == ["bundle.json", "golden.npz", "model.onnx", "runner.pyz"]
    assert set(said["files"]) == {"golden.npz", "model.onnx", "runner.pyz"}
    assert said["kind"] == "deploy"
    assert not {"images", "labels_file", "rows"} & set(said)
    assert (said["size"], said["resize"], said["precision"]) == ([8, 8], "fit-crop", "fp32")
    assert said["lineage"] == {"export/onnx": shipped[0].manifest["key"]}


def test_the_runner_in_the_bundle_tests_itself(shipped):
    *_, bundle, _ = shipped
    code, (said,), err = start(bundle / "runner.pyz", "selftest", bundle)
    assert (code, err) == (0, "")
    assert said["golden"]["images"] == 4
    assert (said["target"], said["kind"]) == ("onnx", "this CPU")


def test_a_deployment_bundle_cannot_be_measured(shipped, tmp_path, capsys):
    assert main(["bench", str(shipped[2]), str(tmp_path / "out")]) == 2
    assert "deploy" in json.loads(capsys.readouterr().err)["found"]


@pytest.mark.parametrize("resize", [None, "squash", "photo"])
def test_predict_says_what_the_host_says(shipped, resize, tmp_path, capsys):
    """Same files, same rule of resizing: the same answers. Probabilities may differ by pixels that were rounded otherwise."""
    *_, pictures = shipped
    artifact = export(tmp_path / "ws", resize)
    assert main(["predict", str(deploy(artifact, tmp_path / "bundle")), str(pictures)]) == 0
    found = lines(capsys)
    host.predict([pictures], artifact.id, 10, tmp_path / "ws", json=True)
    expected = json.loads(capsys.readouterr().out)["images"]
    assert len(found) == len(expected) == 30
    for ours, theirs in zip(found, expected, strict=True):
        assert ours["file"] == theirs["file"]
        assert ours["label"] == theirs["classes"][0]["class"]
        shares = {item["class"]: item["probability"] for item in theirs["classes"]}
        assert ours["probabilities"] == pytest.approx(shares, abs=RUNNER_PROBABILITY)
        assert ours["probability"] == max(ours["probabilities"].values())
        assert ours["ms"] > 0


def test_predict_answers_right(shipped, capsys):
    assert main(["predict", str(shipped[2]), str(shipped[3])]) == 0
    _, labels = digits()
    found = lines(capsys)
    assert sum(item["label"] == f"digit {labels[1200 + i]}" for i, item in enumerate(found)) >= 24


def test_predict_names_a_damaged_image_and_answers_the_others(shipped, tmp_path, capsys):
    good = (shipped[3] / "1200.png").read_bytes()
    (tmp_path / "a.png").write_bytes(good)
    (tmp_path / "b.png").write_bytes(good[:40])
    (tmp_path / "c.png").write_bytes(good)
    assert main(["predict", str(shipped[2]), str(tmp_path)]) == 6
    out, err = capsys.readouterr()
    first, damaged, last = map(json.loads, out.splitlines())
    assert first["logits"] == last["logits"]
    assert damaged["error"] == json.loads(err)
    assert damaged["error"]["where"] == str(tmp_path / "b.png")


def npy(values):
    out = io.BytesIO()
    np.save(out, values)
    return out.getvalue()


def test_serve_answers_line_by_line_and_survives_what_is_wrong(shipped, tmp_path):
    """A path, an image in base64, pixels; between them requests that are none: each gets its line, in order."""
    _, _, bundle, pictures = shipped
    images, _ = digits()
    pixels = images[1200]
    code = base64.b64encode
    requests = [
        {"path": str(pictures / "1200.png"), "id": 7},
        {"image": code(npy(pixels)).decode()},
        {"pixels": code(pixels.tobytes()).decode(), "shape": [8, 8, 1], "id": "c"},
        {"path": str(tmp_path / "nowhere.png"), "id": 8},
        {"image": "!"},
        {"image": code(b"GIF89a").decode()},
        {"pixels": code(pixels.tobytes()).decode(), "shape": [8, 9, 1]},
        {"pixels": "", "shape": "8"},
        {"path": "a", "image": "b"},
        [1],
    ]
    text = "".join(json.dumps(request) + "\n" for request in requests) + "no json\n\n" + json.dumps(requests[0])
    ended, found, err = start(bundle / "runner.pyz", "serve-stdin", bundle, text=text)
    assert (ended, err) == (0, "")
    assert [item.get("error", {}).get("exit_code", 0) for item in found] == [0, 0, 0, 2, 6, 6, 2, 2, 2, 2, 2, 0]
    assert [item.get("id") for item in found[:4]] == [7, None, "c", 8]
    for item in (*found[:3], found[-1]):
        assert item["logits"] == pytest.approx(found[0]["logits"])
        assert item["label"] == f"digit {int(np.argmax(item['logits']))}"
        assert item["probability"] == pytest.approx(np.exp(item["logits"]).max() / np.exp(item["logits"]).sum())
        assert item["ms"] > 0


def test_serve_answers_before_the_next_question_comes(shipped):
    """Each line is there at once; the end of stdin is the end."""
    _, _, bundle, pictures = shipped
    argv = [sys.executable, "-I", str(bundle / "runner.pyz"), "serve-stdin", str(bundle)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        for name in ("1200.png", "1201.png"):
            server.stdin.write(json.dumps({"path": str(pictures / name)}) + "\n")
            server.stdin.flush()
            assert "label" in json.loads(server.stdout.readline())
        server.stdin.close()
        assert server.stdout.read() == ""
    assert server.returncode == 0


def test_bytes_that_are_no_text_are_a_wrong_request(shipped):
    _, _, bundle, pictures = shipped
    text = b"\xff\xfe\n" + json.dumps({"path": str(pictures / "1200.png")}).encode()
    argv = [sys.executable, "-I", str(bundle / "runner.pyz"), "serve-stdin", str(bundle)]
    found = [json.loads(line) for line in subprocess.run(argv, input=text, capture_output=True).stdout.splitlines()]
    assert [item.get("error", {}).get("exit_code", 0) for item in found] == [2, 0]


def test_a_reader_that_goes_away_is_exit_7(shipped):
    _, _, bundle, pictures = shipped
    argv = [sys.executable, "-I", str(bundle / "runner.pyz"), "predict", str(bundle), str(pictures)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        child.stdout.close()
        said = child.stderr.read()
    assert child.returncode == 7
    assert json.loads(said)["where"] == "stdout"


def test_times_of_an_emulated_device_are_not_called_latency(bundle, tmp_path, capsys):
    np.save(tmp_path / "a.npy", bundle.images[0])
    assert main(["predict", str(bundle.seal(device_kind="emulated")), str(tmp_path / "a.npy")]) == 0
    (found,) = lines(capsys)
    assert "ms" not in found
    assert found["emulated_ms"] > 0


def test_probe_is_one_line_and_loads_no_model(capsys):
    assert main(["probe"]) == 0
    (found,) = lines(capsys)
    assert found["engines"]["onnxruntime"]
    assert set(found["engines"]) | set(found["missing"]) >= {"onnxruntime", "tensorrt"}
    assert all(item["hint"] for item in found["missing"].values())
    assert found["machine"]["cores"] >= 1
    assert found["emulated"] == found["state"]["emulated"]
    assert "PIL.Image" in found["decoders"]


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["selftest"], ["selftest", "HERE"]),
        (["predict", "a.png"], ["predict", "HERE", "a.png"]),
        (["serve-stdin", "--public-key", "k"], ["serve-stdin", "HERE", "--public-key", "k"]),
        (["bench"], ["bench", "HERE", "HERE-result"]),
        (["bench", "out"], ["bench", "HERE", "out"]),
        (["predict", "--public-key", "k", "HERE", "a.png"], ["predict", "--public-key", "k", "HERE", "a.png"]),
        (["probe"], ["probe"]),
        ([], []),
    ],
)
def test_in_a_bundle_the_runner_means_that_bundle(words, meant, shipped, monkeypatch):
    here = str(shipped[2].resolve())
    monkeypatch.setattr(sys, "argv", [str(shipped[2] / "runner.pyz")])
    assert program._here([word.replace("HERE", here) for word in words]) == [
        word.replace("HERE", here) for word in meant
    ]


def test_the_shipped_file_classifies_without_a_bundle_named(shipped, tmp_path):
    picture = shipped[3] / "1200.png"
    argv = [sys.executable, "-I", str(shipped[2] / "runner.pyz"), "predict", str(picture)]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, json.loads(done.stdout)["file"]) == (0, str(picture))


def test_a_wrong_command_line_is_answered_with_its_usage(shipped, capsys):
    assert main(["bench", str(shipped[2])]) == 2
    said = json.loads(capsys.readouterr().err)
    assert said["expected"].startswith("runner bench [-h]")
    assert said["hint"] == "runner.pyz bench --help"
