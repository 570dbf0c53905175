"""Every family leaves torch as ONNX with a free batch and answers the same there."""

import importlib

import numpy as np
import onnxruntime
import pytest
import torch
from networks import SMALLEST, seeded, settled, telling
from tolerances import DEEP_ERROR_TO_RANGE

from edgekd import models, onnxfile
from edgekd.stages import tracing

SHALLOW = {  # of the families whose smallest member takes seconds to trace: the same blocks, fewer of them
    "wrn": {"TABLE": {"wrn_16_1": (1, 1)}},
    "resnet_imagenet": {"TABLE": {"resnet18_imagenet": ((1, 1, 1, 1), 4)}},
    "mobilenetv1": {"TABLE": {"mobilenetv1": ((64, 2),) * 3}},
    "mobilenetv2": {"_GROUPS": ((1, 16, 1, 1), *((6, 24, 2, 2),) * 2)},
    "shufflenetv1": {"TABLE": {"shufflenetv1": (3, (240, 480, 960), (2, 1, 2))}},
    "shufflenetv2": {"TABLE": {"shufflenetv2_1x": ((116, 232, 464, 1024), (1, 2, 1))}},
    "densenet": {"TABLE": {"densenet40": 2}},
}


@pytest.mark.parametrize("family", SMALLEST)
def test_torch_and_onnxruntime_agree_at_any_batch(family, monkeypatch) -> None:
    for attribute, value in SHALLOW.get(family, {}).items():
        monkeypatch.setattr(importlib.import_module(f"edgekd.models.{family}"), attribute, value)
    network = models.build(SMALLEST[family], classes=10, generator=seeded())
    images = torch.randn(5, 3, 32, 32, generator=seeded(1))
    settled(network, images, seeded(2))
    model = onnxfile.strip(tracing.trace(network, 3, (32, 32), onnxfile.OPSET))
    onnxfile.check(model, "graph")
    session = onnxruntime.InferenceSession(onnxfile.to_bytes(model), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        wanted = network(images)
    assert telling(wanted)
    for batch in (1, 5):
        found = session.run(None, {"input": images[:batch].numpy()})[0]
        assert found.shape == (batch, 10)
        assert np.abs(found - wanted[:batch].numpy()).max() <= DEEP_ERROR_TO_RANGE * np.ptp(wanted.numpy())
