import pytest
import torch
from networks import SMALLEST, seeded, settled, telling
from tolerances import FOLDED_LOGITS
from torch import nn

from edgekd import models
from edgekd.models.fold import fold_batchnorm
from edgekd.taps import tapped

KEPT = {"wrn": 7, "densenet": 39}  # BatchNorms that follow no convolution of theirs, of the smallest member


def norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


@pytest.mark.parametrize("name", [*SMALLEST.values(), "resnet20", "resnet8x4", "resnet20_a", "resnet50_imagenet"])
def test_folded_network_gives_the_same_logits_and_taps(name) -> None:
    network = models.build(name, classes=10, generator=seeded())
    images = torch.rand(8, 3, 16, 16, generator=seeded(1))
    settled(network, (images - 0.5) / 0.2, seeded(2)).train()
    folded = fold_batchnorm(network)
    assert network.training
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert not folded.training and not any(parameter.requires_grad for parameter in folded.parameters())
    assert norms(folded) == KEPT.get(models.FAMILIES[name], 0) < norms(network) + (name == "densenet40")
    found = []
    for net in (network.eval(), folded):
        points = models.taps(name, net)
        with tapped(net, points, [(tap, "map") for tap in points], (0.5,) * 3, (0.2,) * 3) as watched, torch.no_grad():
            logits, taps = watched(images)
        found.append({**taps, "logits": logits})
    assert telling(found[0]["logits"])
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
    assert norms(fold_batchnorm(Shared())) == 3


def test_across_parents_it_is_folded_where_asked() -> None:
    network, images = Shared(), torch.rand(8, 3, 4, 4, generator=seeded())
    settled(network, images, seeded(1)).eval()
    folded = fold_batchnorm(network, across=True)
    assert norms(folded) == 2 and isinstance(folded.inner[0], nn.Identity)
    with torch.no_grad():
        whole = network(images)
        assert (folded(images) - whole).abs().max() <= FOLDED_LOGITS * (whole.max() - whole.min())
