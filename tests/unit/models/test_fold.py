import pytest
import torch
from tolerances import FOLDED_LOGITS
from torch import nn

from edgekd import models
from edgekd.models.fold import fold_batchnorm
from edgekd.taps import tapped


@pytest.mark.parametrize("name", ["resnet20", "resnet8x4", "resnet20_a", "wrn_16_2", "wrn_16_1"])
def test_folded_network_gives_the_same_logits_and_taps(name) -> None:
    generator = torch.Generator().manual_seed(0)
    network = models.build(name, classes=10, generator=generator)
    images = torch.rand(8, 3, 16, 16, generator=generator)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values, low in ((module.weight, 0.5), (module.bias, -0.2), (module.running_var, 0.5)):
                values.data.uniform_(low, low + 1, generator=generator)
            module.running_mean.uniform_(-0.5, 0.5, generator=generator)
    network.train()
    folded = fold_batchnorm(network)
    assert network.training
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert not folded.training and not any(parameter.requires_grad for parameter in folded.parameters())
    norms = [sum(isinstance(m, nn.BatchNorm2d) for m in net.modules()) for net in (network, folded)]
    assert norms[1] == (0 if name.startswith("resnet") else norms[0] - 6)
    found = []
    for net in (network.eval(), folded):
        points = models.taps(name, net)
        with tapped(net, points, [(tap, "map") for tap in points], (0.5,) * 3, (0.2,) * 3) as watched, torch.no_grad():
            logits, taps = watched(images)
        found.append({**taps, "logits": logits})
    for key, value in found[0].items():
        assert (value - found[1][key]).abs().max() <= FOLDED_LOGITS * (value.max() - value.min()), key


class Shared(nn.Module):
    """One convolution read twice, one BatchNorm used twice, one of another parent: none may be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm_a = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.b, self.norm_b = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.c, self.inner = nn.Conv2d(3, 3, 1), nn.Sequential(nn.BatchNorm2d(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.a(x)
        y = self.norm_a(y) + y
        y = self.norm_b(self.norm_b(self.b(y)))
        out: torch.Tensor = self.inner(self.c(y))
        return out


def test_only_what_is_exact_is_folded() -> None:
    folded = fold_batchnorm(Shared())
    assert sum(isinstance(module, nn.BatchNorm2d) for module in folded.modules()) == 3
