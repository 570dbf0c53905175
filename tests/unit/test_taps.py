import pytest
import torch
from torch import nn

from edgekd import models
from edgekd.errors import RecipeError, StageFailed
from edgekd.fit import compiling
from edgekd.taps import TapPoint, reduce, tapped

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
WANTED = [("block.1", "energy"), ("block.1", "pooled"), ("stage.3", "map"), ("preact.3", "map"), ("pooled", "pooled")]


@pytest.fixture
def network() -> nn.Module:
    return models.build("resnet8", classes=10, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def hooks(network: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules())


def test_reductions(network, images) -> None:
    with tapped(network.eval(), models.taps("resnet8", network), WANTED, MEAN, STD) as net:
        logits, taps = net(images)
    x = (images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    assert torch.equal(logits, network(x))
    block = network.layer1(network.relu(network.bn1(network.conv1(x))))
    assert list(taps) == [f"{tap}:{reduction}" for tap, reduction in WANTED]
    assert torch.allclose(taps["block.1:energy"], block.square().mean(1))
    assert torch.allclose(taps["block.1:pooled"], block.mean((2, 3)), atol=1e-6)
    assert torch.equal(taps["stage.3:map"], taps["preact.3:map"].relu())
    assert taps["preact.3:map"].min() < 0
    assert torch.equal(network.classifier(taps["pooled:pooled"]), logits)


def test_nothing_is_left_behind(network, images) -> None:
    keys = list(network.state_dict())
    with tapped(network, models.taps("resnet8", network), WANTED, MEAN, STD) as net:
        net(images)
        assert hooks(network) == len(WANTED)
        assert net.store == {}
    assert hooks(network) == 0
    assert list(network.state_dict()) == keys
    with pytest.raises(KeyError), tapped(network, models.taps("resnet8", network), WANTED, MEAN, STD):
        raise KeyError
    assert hooks(network) == 0


def test_wanted_twice_is_delivered_once(network, images) -> None:
    with tapped(network, models.taps("resnet8", network), [("stem", "map")] * 2, MEAN, STD) as net:
        assert list(net(images)[1]) == ["stem:map"]


def test_gradients_go_through(network, images) -> None:
    with tapped(network, models.taps("resnet8", network), [("block.2", "energy")], MEAN, STD) as net:
        net(images)[1]["block.2:energy"].sum().backward()
    assert network.layer1[0].conv1.weight.grad.abs().sum() > 0
    assert network.layer3[0].conv1.weight.grad is None


def test_energy_has_the_gradient_of_the_mean_of_squares() -> None:
    value = torch.randn(2, 5, 3, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 3, 4)
    (ours,) = torch.autograd.grad((reduce(value, "energy") * weight).sum(), value)
    (plain,) = torch.autograd.grad((value.square().mean(1) * weight).sum(), value)
    assert torch.allclose(ours, plain, atol=1e-6)


def test_half_precision_reduces_in_float32(network, images) -> None:
    with tapped(network, models.taps("resnet8", network), WANTED, MEAN, STD) as net:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits, taps = net(images)
    assert logits.dtype == torch.bfloat16
    assert taps["block.1:energy"].dtype == taps["block.1:pooled"].dtype == torch.float32
    assert reduce(torch.full((1, 1, 1, 1), 1e-3, dtype=torch.float16), "energy").item() == pytest.approx(1e-6, rel=1e-2)


def test_unknown_taps_are_errors_of_the_recipe(network) -> None:
    points = models.taps("resnet8", network)
    with (
        pytest.raises(RecipeError, match=r"no tap 'block.9'"),
        tapped(network, points, [("block.9", "map")], MEAN, STD),
    ):
        pass
    elsewhere = {"x": TapPoint("layer9.0", "output")}
    with pytest.raises(RecipeError, match=r"layer9\.0"), tapped(network, elsewhere, [("x", "map")], MEAN, STD):
        pass
    assert hooks(network) == 0


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.ReLU(), nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.used(self.used(x))


@pytest.mark.parametrize(("path", "told"), [("unused", "not run"), ("used", "more than once")])
def test_layers_must_run_once(images, path, told) -> None:
    with tapped(Odd(), {"x": TapPoint(path, "output")}, [("x", "map")], MEAN, STD) as net:
        with pytest.raises(StageFailed, match=told):
            net(images)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("training", [True, False])
def test_compiled_is_equal(network, images, backend, training) -> None:
    torch._dynamo.reset()
    network.train(training)
    with tapped(network, models.taps("resnet8", network), WANTED, MEAN, STD) as net:
        logits, taps = net(images)
        compiled = torch.compile(net, backend=backend, fullgraph=True, dynamic=False)
        logits_c, taps_c = compiled(images)
        assert list(taps_c) == list(taps)
        assert torch.allclose(logits, logits_c, atol=1e-4)
        assert all(torch.allclose(taps[key], taps_c[key], rtol=1e-4, atol=1e-5) for key in taps)
        other = 1 - images
        again, key = compiled(other)[1], "block.1:energy"
        assert torch.allclose(again[key], net(other)[1][key], rtol=1e-4, atol=1e-5)  # of this call, not of the last one
        assert not torch.allclose(again[key], taps_c[key], rtol=1e-2)
    torch._dynamo.reset()


@pytest.mark.slow
def test_inductor_and_its_frozen_teacher_are_equal(network) -> None:
    tool = compiling._missing_tool("cpu")
    if tool:
        pytest.skip(f"needs a {tool}")
    torch._dynamo.reset()
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    with tapped(network.eval(), models.taps("resnet8", network), WANTED, MEAN, STD) as net, torch.no_grad():
        logits, taps = net(images)
        for options in (None, {"freezing": True}):
            logits_c, taps_c = torch.compile(net, fullgraph=True, dynamic=False, options=options)(images)
            assert torch.allclose(logits, logits_c, atol=1e-4)
            assert all(torch.allclose(taps[key], taps_c[key], rtol=1e-4, atol=1e-5) for key in taps)
            torch._dynamo.reset()


def test_taps_set_after_compiling_are_an_error_not_a_silence(network, images) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(network, backend="eager")
    compiled(images)  # the graph without taps is made here
    with tapped(network, models.taps("resnet8", network), WANTED, MEAN, STD) as net:
        net.network = compiled
        try:
            _, taps = net(images)
        except StageFailed as error:
            assert "compiled before" in str(error)
        else:
            assert len(taps) == len(WANTED)
    torch._dynamo.reset()
