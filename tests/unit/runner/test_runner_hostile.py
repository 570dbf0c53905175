"""What comes from outside and means no good: bundles, images, lines on stdin, closed pipes. Never a traceback."""

import io
import json
import os
import struct
import subprocess
import sys
import zlib

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgekd.runner import decode, png
from edgekd.runner.__main__ import main
from edgekd.runner.failure import RunnerError


def refused(capsys, *arguments):
    """(exit code, what is said) of a command that ends in an error."""
    code = main([str(argument) for argument in arguments])
    return code, json.loads(capsys.readouterr().err.splitlines()[-1])


def rewrite(bundle, old, new):
    text = (bundle.folder / "bundle.json").read_text()
    assert text.count(old) == 1
    (bundle.folder / "bundle.json").write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ('"threads": 1', '"threads": 1, "threads": 2', 6),
        ('"tolerance": 0.0001', '"tolerance": Infinity', 6),
        ('"tolerance": 0.0001', '"tolerance": 1e999', 2),
        ('"options": {}', '"options": ' + "[" * 20_000 + "]" * 20_000, 6),
        ('"rows.npy": "', '"row\\u0000s": "', 2),
        ('"rows.npy": "', '"..": "', 2),
        ('"rows.npy": "', '"\\ud800": "', 2),
    ],
)
def test_a_bundle_json_that_two_readers_could_read_differently_is_refused(bundle, capsys, old, new, code):
    rewrite(bundle, old, new)
    assert refused(capsys, "selftest", bundle.folder)[0] == code


@pytest.mark.parametrize("folder", [True, False])
def test_a_link_that_is_not_listed_is_refused(bundle, capsys, tmp_path, folder):
    place = tmp_path / "elsewhere"
    place.mkdir()
    (bundle.folder / "weights").symlink_to(place if folder else place / "gone")
    code, said = refused(capsys, "selftest", bundle.folder)
    assert (code, said["where"]) == (6, "weights")


@pytest.mark.parametrize(
    "golden",
    [
        lambda g: np.zeros(3),
        lambda g: {"images": g["images"][..., 0], "logits": g["logits"]},
        lambda g: {"images": g["images"].astype(np.float32), "logits": g["logits"]},
        lambda g: {"images": g["images"][:0], "logits": g["logits"][:0]},
        lambda g: {"images": g["images"], "logits": g["logits"][:, :3]},
        lambda g: {"images": g["images"].repeat(3, axis=3), "logits": g["logits"]},
    ],
    ids=["lone-array", "dimensions", "type", "empty", "classes", "channels"],
)
def test_golden_images_that_check_nothing_are_refused(bundle, capsys, golden):
    with np.load(bundle.folder / "golden.npz") as file:
        made = golden(dict(file))
    with (bundle.folder / "golden.npz").open("wb") as file:
        np.savez(file, **made) if isinstance(made, dict) else np.save(file, made)
    code, said = refused(capsys, "selftest", bundle.seal())
    assert (code, said["where"]) == (6, "golden.npz")


def test_a_network_of_two_inputs_is_refused(bundle, capsys):
    shapes = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", 1, 8, 8]) for name in ("a", "b", "c")]
    graph = helper.make_graph([helper.make_node("Add", ["a", "b"], ["c"])], "two", shapes[:2], shapes[2:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, bundle.folder / "model.onnx")
    code, said = refused(capsys, "selftest", bundle.seal())
    assert (code, said["found"]) == (7, "2 inputs, 1 outputs")


def test_a_public_key_out_of_the_bundle_is_no_key(bundle, capsys):
    (bundle.folder / "key.pub").write_bytes(bytes(32))
    code, said = refused(capsys, "selftest", bundle.seal(), "--public-key", bundle.folder / "key.pub")
    assert code == 2
    assert "lies in the bundle" in said["found"]


@pytest.mark.parametrize("place", [".", "out", "deep/out"])
def test_results_do_not_go_into_the_bundle(bundle, capsys, place):
    code, said = refused(capsys, "bench", bundle.folder, bundle.folder / place)
    assert (code, said["found"]) == (2, "lies in the bundle")


def test_hex_with_spaces_is_no_key(bundle, capsys):
    assert refused(capsys, "selftest", bundle.folder, "--public-key", "ab " * 21 + "a")[0] == 2


def strip(width, height, kind=4):
    """A PNG of zeros, every row filtered by Paeth: small, and long to undo."""
    row = bytes([kind]) + bytes(width)
    packed = zlib.compressobj(9)
    body = b"".join([packed.compress(row) for _ in range(height)] + [packed.flush()])
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)), (b"IDAT", body), (b"IEND", b"")]
    return png.MAGIC + b"".join(
        struct.pack(">I", len(c)) + name + c + struct.pack(">I", zlib.crc32(name + c)) for name, c in chunks
    )


def npy(header):
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def test_a_side_of_the_longest_allowed_is_read():
    assert decode.decode(strip(1, decode.MOST_SIDE, 0), "x", 1).shape == (decode.MOST_SIDE, 1, 1)


@pytest.mark.parametrize(
    "blob",
    [
        strip(1, decode.MOST_SIDE + 1),
        b"P5 70000 1 255\n" + bytes(70000),
        b"P2 2 1 255\n1 -5",
        b"P2 2 1 255\n1 99999999999999999999",
        b"BM" + bytes(8) + struct.pack("<IIiiHHIIiiII", 54, 40, 70000, 1, 1, 24, 0, 0, 0, 0, 0, 0) + bytes(210000),
        npy("{'descr': '|u1', 'fortran_order': False, 'shape': (-1, 8, 3)}"),
        npy("{'descr': '|u1', 'fortran_order': False, 'shape': (10000000000, 8, 3)}"),
        npy("{'descr': ('a', 3), 'fortran_order': False, 'shape': ("),
        npy("{'descr': None, 'fortran_order': False, 'shape': (8, 8)}"),
    ],
    ids=["png", "pgm", "negative", "beyond-int64", "bmp", "npy-negative", "npy-huge", "npy-cut", "npy-type"],
)
def test_an_image_that_is_a_mistake_or_a_bomb_is_refused(blob):
    with pytest.raises((RunnerError, MemoryError)) as error:
        decode.decode(blob, "x", 3)
    assert isinstance(error.value, MemoryError) or error.value.exit_code == 6


@pytest.mark.parametrize(("form", "spot"), [("JPEG", None), ("GIF", 6)])
def test_a_bomb_that_pillow_refuses_is_refused_in_our_words(form, spot):
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    out = io.BytesIO()
    image.new("L", (8, 8)).save(out, form)
    blob = bytearray(out.getvalue())
    spot = spot or blob.index(b"\xff\xc0") + 5  # height and width of a JPEG's frame; of a GIF's screen
    blob[spot : spot + 4] = b"\xff" * 4
    with pytest.raises(RunnerError) as error:
        decode.decode(bytes(blob), "x", 3)
    assert error.value.exit_code == 6


GARBAGE = [
    "[" * 100_000,
    '{"path": "a\\u0000b"}',
    '{"path": "\\ud800"}',
    '{"path": "/dev/zero"}',
    '{"path": "/"}',
    '{"pixels": "", "shape": [4611686018427387904, 4, 1]}',
    '{"pixels": "", "shape": [1e3, 4, 1]}',
    '{"image": "////"}',
    '{"image": "é"}',
    "\x00\x01",
    "null",
]


def test_every_line_of_garbage_has_an_answer_and_the_next_image_too(bundle, monkeypatch, capsys):
    good = json.dumps({"pixels": "AAAA" * 21 + "AA==", "shape": [8, 8, 1]})
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join([*GARBAGE, good]) + "\n"))
    assert main(["serve-stdin", str(bundle.folder)]) == 0
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line.get("error", {}).get("exit_code", 0) > 0 for line in said] == [True] * len(GARBAGE) + [False]


@pytest.mark.parametrize("word", ["²", "٣", "9" * 5000, "-1", "0", "1.5", "1" + "0" * 12])
def test_a_step_of_no_number_is_answered(bundle, brief, monkeypatch, capsys, tmp_path, word):
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"step {word}\nstep 2\n"))
    assert main(["bench", str(bundle.folder), str(tmp_path / "out"), "--turns"]) == 0
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert said[0]["ready"]
    assert all("error" in line for line in said[1:-1])
    assert said[-1]["queries"] == 2


@pytest.mark.parametrize("closed", [{0}, {1}, {0, 1}], ids=["stdin", "stdout", "both"])
def test_streams_that_the_caller_closed(bundle, closed):
    code = f"import os; [os.close(n) for n in {sorted(closed)}]\n"
    code += f"os.execv({sys.executable!r}, [{sys.executable!r}, '-m', 'edgekd.runner', 'serve-stdin', {str(bundle.folder)!r}])"
    done = subprocess.run([sys.executable, "-c", code], stdin=subprocess.DEVNULL, capture_output=True, env=os.environ)
    assert (done.returncode, done.stderr) == (0, b"")
