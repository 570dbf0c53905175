"""A real chain of every kind of artifact on the embedded digits, and the command line in this process."""

import io
import json
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from types import SimpleNamespace

from edgekd import cli
from edgekd.artifact import MANIFEST, payload_digest, sealed_bytes, sha256_file
from edgekd.store import Store

FIT = {"epochs": 3, "batch_size": 32, "lr": 0.1, "schedule": "one-cycle", "device": "cpu"}
CHAIN = {
    "name": "tiny",
    "data": {"use": "digits", "train": 400},
    "teacher": {"model": "resnet8", "fit": {**FIT, "epochs": 1}},
    "student": {"model": "resnet8", "fit": FIT},
    "distill": {"use": "kd", "cached_views": 1},
    "qat": {"epochs": 1, "images": 32, "lr": 0.001},
    "quantize": {"images": 32},
    "export": ["onnx-int8"],
    "bench": {"profile": "smoke"},
}
STEPS = (
    "data",
    "teacher",
    "views",
    "student",
    "qat",
    "graph",
    "quantized/u8s8",
    "export/onnx-int8",
    "bench/onnx-int8@cpu",
)


def call(home, *argv):
    """A command in this process, in a folder, with the workspace `w`: (exit code, stdout, stderr)."""
    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["edgekd", *map(str, argv)]
    code = 0
    try:
        with chdir(home), redirect_stdout(out), redirect_stderr(err):
            cli.main()
    except SystemExit as stop:
        code = stop.code or 0
    finally:
        sys.argv = before
    return SimpleNamespace(code=code, out=out.getvalue(), err=err.getvalue())


def chain_of(home, *argv):
    """{step: artifact} of a chain command."""
    done = call(home, *argv, "--threads", "1", "--json", "--workspace", "w")
    assert done.code == 0, done.err
    store = Store(home / "w")
    return {step["step"]: store.get(step["artifact"]) for step in json.loads(done.out)["steps"]}


def flip(path, place=0.5):
    content = bytearray(path.read_bytes())
    content[int(len(content) * place)] ^= 1
    path.write_bytes(bytes(content))


def reseal(folder, manifest):
    """What somebody does who wants to hide a change: new hashes, new digest, new folder name, a good seal."""
    for name, entry in manifest["files"].items():
        entry |= {"sha256": sha256_file(folder / name), "bytes": (folder / name).stat().st_size}
    manifest |= {"digest": payload_digest(manifest["files"])}
    (folder / MANIFEST).write_bytes(sealed_bytes({k: v for k, v in manifest.items() if k != "seal"}))
    return folder.rename(folder.with_name(f"{manifest['key'][:8]}-{manifest['digest'][:8]}"))
