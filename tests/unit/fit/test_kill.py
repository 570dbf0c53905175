"""A process that is killed with SIGKILL while it trains goes on when it is started again, to the same bytes."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = """
import hashlib, sys
from pathlib import Path
import torch
from safetensors.torch import save
from edgekd import models, registry
from edgekd.console import Console
from edgekd.fit.batches import TrainingData
from edgekd.fit.loop import fit
from edgekd.fit.request import Settings, Side
from edgekd.recipe import Fit

g = torch.Generator().manual_seed(5)
labels = torch.arange(96) % 4
data = TrainingData(torch.randint(0, 256, (96, 16, 16, 3), generator=g).to(torch.uint8), labels, ("crop2", "flip"))
networks = [models.build("resnet8", classes=4, generator=torch.Generator().manual_seed(n)) for n in (1, 2)]
points = [models.taps("resnet8", network) for network in networks]
distiller = registry.construct("distillers", "rtk", {})
wanted = distiller.wanted(*map(list, points))
student, teacher = (Side(n, p, w, (0.5,) * 3, (0.25,) * 3) for n, p, w in zip(networks, points, wanted))
settings = Settings("student", Fit(epochs=8, batch_size=32), 0, 4, "cpu", "fp32", False, 1, Path(sys.argv[1]))
network = fit(student, teacher, distiller, data, settings, Console()).network
state = network.state_dict()
print(hashlib.sha256(save({name: state[name].contiguous() for name in sorted(state)})).hexdigest())
"""


def start(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SCRIPT, str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL on this system")
def test_a_killed_run_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    whole = start(tmp_path / "whole")
    cut = start(tmp_path / "cut")
    end = time.monotonic() + 60
    while not (tmp_path / "cut" / "epoch-000003.safetensors").exists():
        assert time.monotonic() < end, "no third checkpoint in 60 s"
        assert cut.poll() is None, cut.communicate()[1]
        time.sleep(0.002)
    cut.kill()
    assert cut.wait(60) != 0
    cut.communicate()
    wanted, _ = whole.communicate(timeout=60)
    found, log = start(tmp_path / "cut").communicate(timeout=60)
    assert "going on after epoch" in log
    assert len(wanted.strip()) == 64
    assert found == wanted
