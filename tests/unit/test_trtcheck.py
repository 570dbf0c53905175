"""TensorRT-RTX is asked in a process of its own: whatever it does there, an export gets an answer or an error of ours."""

import textwrap

import pytest

from edgekd import trtcheck
from edgekd.errors import CheckFailed, MissingTool, StageFailed

# Just enough of the package's interface for the program that asks it.
FAKE = """
    __version__ = "9.9"

    class ILogger:
        def __init__(self):
            pass

    class Severity:
        def __init__(self, name):
            self.name = name

    class ComputeCapability:
        SM86 = 86

    class Tensor:
        name, shape = "input", (-1, 3, 8, 8)

    class Network:
        num_inputs, num_layers = 1, 7

        def get_input(self, i):
            return Tensor()

    class Profile:
        def set_shape(self, *shapes):
            assert shapes == ("input", (1, 3, 8, 8), (1, 3, 8, 8), (16, 3, 8, 8)), shapes

    class Config:
        def set_compute_capability(self, *chip):
            assert chip == (86, 0)

        def add_optimization_profile(self, profile):
            pass

    class Engine:
        nbytes = 123

    class Builder:
        def __init__(self, log):
            self.log = log

        def create_network(self, flags):
            return Network()

        def create_builder_config(self):
            return Config()

        def create_optimization_profile(self):
            return Profile()

        def build_serialized_network(self, network, config):
            return {engine}

    class OnnxParser:
        num_errors = 1

        def __init__(self, network, log):
            self.log = log

        def parse_from_file(self, path):
            {act}
            self.log.log(Severity("WARNING"), "{warning}")
            self.log.log(Severity("WARNING"), "{warning}")
            return {parsed}

        def get_error(self, i):
            class Error:
                def desc(self):
                    return "not this operator"
            return Error()
"""


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """`installed(parsed=..., act=...)`: a package by that name that behaves so."""

    def install(source=None, *, parsed=True, act="pass", warning="slow", engine="Engine()"):
        folder = tmp_path / "site"
        folder.mkdir()
        text = textwrap.dedent(FAKE) if source is None else source
        for name, value in {"parsed": parsed, "act": act, "warning": warning, "engine": engine}.items():
            text = text.replace("{" + name + "}", str(value))
        (folder / f"{trtcheck.MODULE}.py").write_text(text)
        monkeypatch.syspath_prepend(str(folder))
        monkeypatch.setenv("PYTHONPATH", str(folder))
        model = tmp_path / "model.onnx"
        model.write_bytes(b"")
        return model

    return install


def test_where_it_is_absent_that_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(trtcheck, "available", lambda: False)
    said = trtcheck.build(tmp_path / "model.onnx", "x")
    assert said["checked"] is False and trtcheck.INSTALL in said["why"]


def test_a_file_that_is_built_is_recorded(installed):
    said = trtcheck.build(installed(), "x")
    assert said.pop("build_seconds") >= 0
    assert said == {
        "tool": "TensorRT-RTX", "checked": True, "version": "9.9", "capability": "SM86", "layers": 7, "engine_bytes": 123,
        "errors": ["not this operator"], "warnings": ["slow"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("behaviour", "kind", "words"),
    [
        ({"parsed": False}, CheckFailed, "does not parse it: not this operator"),
        ({"engine": "None"}, CheckFailed, "does not build it"),
        (
            {"warning": "supports UINT8 only on DLA. Defaulting to INT8 instead"},
            CheckFailed,
            "does not take it as it is: supports UINT8",
        ),
        ({"act": "import os; os.kill(os.getpid(), 11)"}, CheckFailed, "died of the file (signal 11)"),
        ({"act": "raise RuntimeError('broken inside')"}, StageFailed, "broken inside"),
        ({"source": "raise ImportError('libnvinfer.so.11')"}, MissingTool, "libnvinfer.so.11"),
    ],
    ids=["not parsed", "not built", "uint8", "crash", "exception", "broken package"],
)
def test_whatever_it_does_is_an_error_of_ours(installed, behaviour, kind, words):
    with pytest.raises(kind) as caught:
        trtcheck.build(installed(**behaviour), "export/x")
    assert words in caught.value.found and caught.value.where == "export/x"


def test_a_build_that_does_not_end_is_ended(installed, monkeypatch):
    model = installed(act="import time; time.sleep(60)")
    monkeypatch.setattr(trtcheck, "LIMIT", 0.5)
    with pytest.raises(StageFailed, match="took more than"):
        trtcheck.build(model, "export/x")
