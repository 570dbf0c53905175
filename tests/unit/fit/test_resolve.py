from __future__ import annotations

import subprocess
import sys

import pytest

from edgekd.errors import MissingTool
from edgekd.fit import resolve as module
from edgekd.fit.resolve import Resolved, resolve
from edgekd.recipe import Fit


def machine(monkeypatch: pytest.MonkeyPatch, *, capability: int | None, cuda_build: bool, mps: bool = False) -> None:
    monkeypatch.setattr(module, "_driver_capability", lambda: capability)
    monkeypatch.setattr(module, "_torch_has_cuda", lambda: cuda_build)
    monkeypatch.setattr(module, "_has_mps", lambda: mps)


@pytest.mark.parametrize(
    ("capability", "cuda_build", "mps", "expected"),
    [
        (None, True, False, Resolved("cpu", "fp32")),
        (9, False, False, Resolved("cpu", "fp32")),
        (9, True, False, Resolved("cuda", "bf16")),
        (8, True, False, Resolved("cuda", "bf16")),
        (7, True, False, Resolved("cuda", "fp32")),
        (None, False, True, Resolved("mps", "fp32")),
    ],
)
def test_auto(
    monkeypatch: pytest.MonkeyPatch, capability: int | None, cuda_build: bool, mps: bool, expected: Resolved
) -> None:
    machine(monkeypatch, capability=capability, cuda_build=cuda_build, mps=mps)
    assert resolve(Fit()) == expected


def test_what_is_named_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, capability=9, cuda_build=True)
    assert resolve(Fit(device="cpu", precision="bf16")) == Resolved("cpu", "bf16")
    assert resolve(Fit(device="cuda", precision="fp32")) == Resolved("cuda", "fp32")


@pytest.mark.parametrize(("capability", "said"), [(None, "no CUDA driver"), (9, "no CUDA build")])
def test_a_named_device_that_is_absent_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capability: int | None, said: str
) -> None:
    machine(monkeypatch, capability=capability, cuda_build=False)
    with pytest.raises(MissingTool, match=said) as caught:
        resolve(Fit(device="cuda"))
    assert caught.value.exit_code == 5
    with pytest.raises(MissingTool, match="Apple"):
        resolve(Fit(device="mps"))


def test_torch_is_not_imported() -> None:
    code = (
        "import sys; from edgekd.fit.resolve import resolve; from edgekd.recipe import Fit;"
        "from edgekd.data.checkpoint_file import find_checkpoint; import edgekd.stages.base;"
        "resolve(Fit()); assert 'torch' not in sys.modules, 'torch was imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
