from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from edgekd.errors import MissingTool
from edgekd.fit import resolve as module
from edgekd.fit.resolve import Driver, Resolved, resolve
from edgekd.recipe import Fit


def machine(monkeypatch: pytest.MonkeyPatch, driver: Driver | None, built: int | None, *, mps: bool = False) -> None:
    monkeypatch.setattr(module, "_driver", lambda: driver)
    monkeypatch.setattr(module, "_cuda_of_torch", lambda: built)
    monkeypatch.setattr(module, "_has_mps", lambda: mps)


@pytest.mark.parametrize(
    ("driver", "built", "mps", "expected"),
    [
        (None, 13, False, Resolved("cpu", "fp32")),
        (Driver(13, 9), None, False, Resolved("cpu", "fp32")),
        (Driver(12, 9), 13, False, Resolved("cpu", "fp32")),
        (Driver(13, 9), 12, False, Resolved("cuda", "bf16")),
        (Driver(13, 9), 13, False, Resolved("cuda", "bf16")),
        (Driver(13, 8), 13, False, Resolved("cuda", "bf16")),
        (Driver(12, 7), 12, False, Resolved("cuda", "fp32")),
        (None, None, True, Resolved("cpu", "fp32")),
    ],
)
def test_auto_is_what_torch_can_use(
    monkeypatch: pytest.MonkeyPatch, driver: Driver | None, built: int | None, mps: bool, expected: Resolved
) -> None:
    machine(monkeypatch, driver, built, mps=mps)
    assert resolve(Fit()) == expected


def test_what_is_named_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, Driver(13, 9), 13, mps=True)
    assert resolve(Fit(device="cpu", precision="bf16")) == Resolved("cpu", "bf16")
    assert resolve(Fit(device="cuda", precision="fp32")) == Resolved("cuda", "fp32")
    assert resolve(Fit(device="mps")) == Resolved("mps", "fp32")


@pytest.mark.parametrize(
    ("driver", "built", "said"),
    [
        (None, 13, "no CUDA driver"),
        (Driver(13, 9), None, "no CUDA build"),
        (Driver(12, 9), 13, "a driver for CUDA 12, too old"),
    ],
)
def test_a_named_device_that_is_absent_is_an_error(
    monkeypatch: pytest.MonkeyPatch, driver: Driver | None, built: int | None, said: str
) -> None:
    machine(monkeypatch, driver, built)
    with pytest.raises(MissingTool, match=said) as caught:
        resolve(Fit(device="cuda"))
    assert caught.value.exit_code == 5
    with pytest.raises(MissingTool, match="Apple"):
        resolve(Fit(device="mps"))


def test_the_cuda_version_of_torch_is_read_without_importing_it() -> None:
    built = torch.version.cuda
    assert module._cuda_of_torch() == (None if built is None else int(built.split(".")[0]))


@pytest.mark.parametrize(
    ("text", "major"),
    [
        ("cuda: Optional[str] = '13.2'\nhip: Optional[str] = None\n", "13"),
        ('debug = False\ncuda = "12.8"\n', "12"),
        ("cuda: Optional[str] = None\nhip: Optional[str] = '6.4'\n", None),
    ],
)
def test_forms_of_torchs_version_file(text: str, major: str | None) -> None:
    found = module.CUDA_OF_TORCH.search(text)
    assert (found and found[1]) == major


def test_torch_is_not_imported() -> None:
    code = (
        "import sys; from edgekd.fit.resolve import resolve; from edgekd.recipe import Fit;"
        "from edgekd.data.checkpoint_file import find_checkpoint; import edgekd.stages.base;"
        "resolve(Fit()); assert 'torch' not in sys.modules, 'torch was imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
