"""Fake quantization: the 8-bit arithmetic of the ONNX operators, the gradients of LSQ, and a network whose taps still work."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from networks import SMALLEST, seeded, settled
from torch import nn

from edgekd import models
from edgekd.errors import RecipeError
from edgekd.fit.fakequant import Activation, FakeQuantized, Rounded, RoundedWeight, fake_quantized, traced, values
from edgekd.models.fold import fold_batchnorm
from edgekd.taps import tapped
from tests.tolerances import FOLDED_LOGITS

assert SMALLEST


def quantized(x: np.ndarray, scale: float, zero_point: int, signed: bool) -> np.ndarray:
    """QuantizeLinear and DequantizeLinear of ONNX in 8 bits: round half to even, then add the zero point, then saturate."""
    levels = np.clip(np.rint(x / np.float32(scale)) + zero_point, *((-128, 127) if signed else (0, 255)))
    return ((levels - zero_point) * np.float32(scale)).astype(np.float32)


@pytest.mark.parametrize(
    ("scale", "zero_point", "signed"),
    [(0.02, 0, False), (0.037, 128, False), (0.5, 255, False), (0.02, 0, True), (0.03, -128, True)],
)
def test_an_activation_is_rounded_as_the_operators_do(scale: float, zero_point: int, signed: bool) -> None:
    x = torch.randn(4000, generator=seeded()) * 3
    x[:20] = (torch.arange(20) - 10 + 0.5) * torch.tensor(scale)  # ties
    ours = Rounded(scale, zero_point, learned=True, signed=signed)(x).detach().numpy()
    np.testing.assert_array_equal(ours, quantized(x.numpy(), scale, zero_point, signed))


def test_gradients_are_those_of_lsq() -> None:
    scale, zero_point = 0.05, 100
    x = (torch.randn(3, 500, generator=seeded()) * 4).requires_grad_()
    rounded = Rounded(scale, zero_point, learned=True)
    weights = torch.randn(3, 500, generator=seeded(1))
    (rounded(x) * weights).sum().backward()
    place = x.detach().numpy().astype(np.float64) / np.float64(np.float32(scale))
    low, high = -zero_point, 255 - zero_point
    inside = (place > low) & (place < high)
    each = np.where(inside, np.rint(place) - place, np.where(place <= low, low, high))  # equation 3
    expected = scale * float((each * weights.numpy()).sum())  # of the logarithm
    assert rounded.ratio.grad is not None and x.grad is not None
    assert float(rounded.ratio.grad) == pytest.approx(expected, rel=1e-3)
    np.testing.assert_allclose(x.grad.numpy(), np.where(inside, weights.numpy(), 0), rtol=1e-6)


@pytest.mark.parametrize("channels", [True, False])
def test_a_weight_is_rounded_by_its_largest(channels: bool) -> None:
    weight = torch.randn(6, 3, 3, 3, generator=seeded())
    weight[2] = 0
    ours = RoundedWeight(channels)(weight).numpy()
    axes = (1, 2, 3) if channels else (0, 1, 2, 3)
    step = (np.abs(weight.numpy()).max(axis=axes, keepdims=True).astype(np.float64) / 127).astype(np.float32)
    step = np.where(step > 0, step, np.float32(1))
    np.testing.assert_array_equal(ours, np.clip(np.rint(weight.numpy() / step), -127, 127) * step)


def test_a_bias_is_rounded_in_steps_of_input_times_weight() -> None:
    network = nn.Sequential(nn.Identity(), nn.Linear(4, 3))
    given, bias = network[1].weight.detach().numpy().copy(), network[1].bias.detach().numpy().copy()
    made = fake_quantized(network, {}, [Activation("_0", 0.3, 10)], {"1": True}, False, {"1": "_0"})
    step = np.float32(0.3) * (np.abs(given).max(axis=1).astype(np.float64) / 127).astype(np.float32)
    ours = made.graph.get_submodule("1").bias.detach().numpy()
    np.testing.assert_array_equal(ours, np.rint(bias / step) * step)
    assert not np.array_equal(ours, bias)


def test_a_bias_before_batchnorm_stays_in_its_mean() -> None:
    """What BatchNorm goes by in training is what the folded network takes off again."""
    random = seeded()
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    images = torch.randn(64, 3, 12, 12, generator=random)
    nn.init.normal_(network[0].bias, 0, 2, generator=random)
    settled(network, images, random)
    made = fake_quantized(network, {}, [], {}, learned=True).train()
    with torch.no_grad():
        for _ in range(60):
            made(images)
        torch.testing.assert_close(made.eval()(images), network(images), rtol=1e-3, atol=1e-3)


def test_a_step_moves_by_a_bounded_factor() -> None:
    rounded = Rounded(0.02, 0, learned=True)
    rounded.ratio.data.fill_(50.0)
    assert float(rounded.step) == pytest.approx(0.08)


def test_an_optimizer_step_changes_weights_and_steps() -> None:
    made = small(learned=True)
    before = {name: p.detach().clone() for name, p in made.named_parameters()}
    optimizer = torch.optim.SGD(made.parameters(), lr=0.1)
    made(torch.randn(8, 3, 16, 16, generator=seeded())).square().sum().backward()
    optimizer.step()
    assert [name for name, p in made.named_parameters() if torch.equal(p, before[name])] == []


def test_steps_that_are_not_learned_stay() -> None:
    made = small(learned=False)
    assert not [p for name, p in made.named_parameters() if name.endswith("ratio") and p.requires_grad]


def small(learned: bool) -> FakeQuantized:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    graph = traced(network)
    nodes = [node.name for node in graph.graph.nodes if node.op == "call_module"]
    return fake_quantized(network, {}, [Activation(nodes[1], 0.01, 0)], {"0": True}, learned)


@pytest.mark.parametrize("family", sorted(SMALLEST))
def test_a_network_of_each_family(family: str) -> None:
    """Untouched it is the network itself; rounded everywhere it is near, and its taps give the rounded values."""
    name, random = SMALLEST[family], seeded()
    images = torch.randn(4, 3, 32, 32, generator=random)
    network = settled(models.build(name, classes=7, generator=random), images, random)
    folded, points = fold_batchnorm(network), models.taps(name, network)
    plain = fake_quantized(folded, points, [], {}, learned=True).eval()
    with torch.no_grad():
        whole = folded(images)
        assert torch.equal(plain(images), whole)
    seen = values(traced(folded), images)
    convolutions = {path: True for path, module in folded.named_modules() if isinstance(module, nn.Conv2d)}
    coarse = [Activation(node, float(v.abs().max()) / 100, 128) for node, v in seen.items() if v.is_floating_point()]
    made = fake_quantized(network, points, coarse, convolutions, learned=True)
    wanted = [(tap, "map") for tap in points if tap != "pooled"]
    with tapped(made, made.points, wanted, (0.0,) * 3, (1.0,) * 3) as tapping, torch.no_grad():
        _, taps = tapping.eval()(images)
    for key, value in taps.items():
        levels = torch.unique(value)
        assert len(levels) <= 256, key
    assert sorted(made.weights()) == sorted(folded.state_dict())
    assert set(made.steps()) == {activation.node for activation in coarse}


@pytest.mark.parametrize("name", ["resnet8", "wrn_16_1", "torchvision:mobilenet_v3_small"])
def test_batchnorm_goes_by_its_batches_and_then_keeps_its_statistics(name: str) -> None:
    random = seeded()
    images = torch.randn(8, 3, 32, 32, generator=random)
    network = settled(models.build(name, classes=4, generator=random), images, random)
    made = fake_quantized(network, {}, [], {}, learned=True).train()
    moved = []
    for epoch in range(3):
        made.begin_epoch(epoch, 3)
        before = {key: b.clone() for key, b in made.named_buffers() if key.endswith(("mean", "var"))}
        assert before
        made(images + 1).sum().backward()
        moved.append([key for key, b in made.named_buffers() if key in before and not torch.equal(b, before[key])])
    assert len(moved[0]) == len(moved[1]) == len(before) and moved[2] == []
    plain = {key: p.grad for key, p in made.named_parameters() if "conv" in key and key.endswith("weight")}
    assert plain and not [key for key, grad in plain.items() if grad is None or not grad.isfinite().all()]


@pytest.mark.parametrize(("epochs", "moving"), [(1, 1), (2, 1), (3, 2), (4, 3), (8, 6), (10, 7)])
def test_statistics_are_kept_in_the_last_quarter_and_never_in_the_first_epoch(epochs: int, moving: int) -> None:
    network = settled(models.build("resnet8", classes=4, generator=seeded()), torch.randn(4, 3, 32, 32), seeded())
    made = fake_quantized(network, {}, [], {}, learned=True)
    frozen = []
    for epoch in range(epochs):
        made.begin_epoch(epoch, epochs)
        frozen.append(made.frozen)
    assert frozen == [False] * moving + [True] * (epochs - moving)


@pytest.mark.parametrize("name", ["resnet8", "vgg8", "mobilenetv2_05", "wrn_16_2"])
def test_a_convolution_and_its_batchnorm_are_the_one_that_is_written(name: str) -> None:
    """Before and behind the folding, learning and frozen: without rounding the same network; its weights those of the fold."""
    random = seeded()
    images = torch.randn(8, 3, 32, 32, generator=random)
    network = settled(models.build(name, classes=4, generator=random), images, random)
    made, folded = fake_quantized(network, {}, [], {}, learned=True), fold_batchnorm(network, across=True)
    weights, expected = made.weights(), folded.state_dict()
    assert sorted(weights) == sorted(expected)
    for key, value in expected.items():
        torch.testing.assert_close(weights[key], value)
    with torch.no_grad():
        whole, ours = network(images), made.eval()(images)
        span = whole.max() - whole.min()
        assert float((ours - whole).abs().max() / span) < FOLDED_LOGITS
        for dropping in (m for m in (*network.modules(), *made.modules()) if isinstance(m, nn.Dropout)):
            dropping.p = 0.0
        whole, ours = network.train()(images), made.train()(images)  # both by their batch
        assert float((ours - whole).abs().max() / (whole.max() - whole.min())) < FOLDED_LOGITS


def test_a_tap_that_the_file_does_not_have_is_refused() -> None:
    """The stem of a wide ResNet is bare; the file has it only with the BatchNorm of the first block in it."""
    network = models.build("wrn_16_2", classes=4)
    points = models.taps("wrn_16_2", network)
    with pytest.raises(RecipeError, match=r"'stem'.*no conv1 without the BatchNorm"):
        fake_quantized(network, points, [], {}, learned=True)
    del points["stem"]
    assert set(fake_quantized(network, points, [], {}, learned=True).points) == set(points)


class Branching(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x


def test_control_flow_is_refused() -> None:
    with pytest.raises(RecipeError, match="cannot be looked through"):
        traced(Branching())
