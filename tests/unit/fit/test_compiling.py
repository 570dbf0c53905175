from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from edgekd.errors import MissingTool
from edgekd.fit import compiling
from edgekd.fit.request import FitResult
from edgekd.recipe import Fit
from tests.tolerances import COMPILED_LOSS, COMPILED_WEIGHTS


@pytest.mark.parametrize(
    ("fit", "images", "missing", "allowed", "on"),
    [
        (Fit(epochs=4), 50_000, "", True, True),
        (Fit(epochs=4), 49_999, "", True, False),
        (Fit(epochs=4), 50_000, "C++ compiler", True, False),
        (Fit(epochs=4), 50_000, "", False, False),
        (Fit(epochs=4, compile=False), 50_000, "", True, False),
        (Fit(epochs=1, compile=True), 10, "", True, True),
    ],
)
def test_when_a_fit_is_compiled(
    monkeypatch: pytest.MonkeyPatch, fit: Fit, images: int, missing: str, allowed: bool, on: bool
) -> None:
    monkeypatch.setattr(compiling, "_missing_tool", lambda device: missing)
    decision = compiling.decide(fit, images, "cpu", allowed=allowed)
    assert decision.on is on
    assert decision.reason.startswith("compiled: " if on else "eager: ")


def test_compile_true_without_a_compiler_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "_missing_tool", lambda device: "C++ compiler")
    with pytest.raises(MissingTool, match=r"no C\+\+ compiler") as caught:
        compiling.decide(Fit(compile=True), 10, "cpu")
    assert caught.value.exit_code == 5


def test_cuda_needs_triton_a_c_compiler_and_pythons_header(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    there: dict[str, str] = {}
    monkeypatch.setattr("torch.utils._triton.has_triton", lambda: "triton" in there)
    monkeypatch.setattr(compiling.shutil, "which", there.get)
    monkeypatch.setattr(compiling.sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    assert compiling._missing_tool("cuda") == "Triton"
    there["triton"] = "yes"
    assert compiling._missing_tool("cuda") == "C compiler"
    there["clang"] = "/usr/bin/clang"
    assert compiling._missing_tool("cuda").startswith("Python.h")
    (tmp_path / "Python.h").touch()
    assert compiling._missing_tool("cuda") == ""
    monkeypatch.setenv("CC", "no-such-compiler")  # Triton takes what is named, and fails
    assert compiling._missing_tool("cuda") == "C compiler"
    assert compiling._missing_tool("mps") == "compiler for mps"


@pytest.mark.slow
def test_compiled_and_eager_agree(fitted: Callable[..., FitResult], tmp_path: Path) -> None:
    tool = compiling._missing_tool("cpu")
    if tool:
        pytest.skip(f"needs a {tool}")
    eager, compiled = (fitted("rtk", folder=tmp_path / str(on), compiled=on, epochs=1, lr=0.01) for on in (False, True))
    assert compiled.compiled
    for name in ("loss", "ce", "kd", "rtk"):
        assert compiled.history[0][name] == pytest.approx(eager.history[0][name], rel=COMPILED_LOSS)
    state = compiled.network.state_dict()
    for name, value in eager.network.state_dict().items():
        if value.is_floating_point():
            worst = (state[name] - value).abs().max() / value.abs().max().clamp_min(1e-3)
            assert worst < COMPILED_WEIGHTS, name
    assert not any(isinstance(m, torch._dynamo.OptimizedModule) for m in compiled.network.modules())
