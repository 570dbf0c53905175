"""Every method trains two steps on every pair of families, or says before training that it cannot, and why."""

import copy

import pytest
import torch
from method_arguments import ARGUMENTS

from edgekd import models, registry
from edgekd.console import Console
from edgekd.errors import RecipeError
from edgekd.fit.batches import TrainingData
from edgekd.fit.loop import fit
from edgekd.fit.request import Settings, Side
from edgekd.recipe import Fit

BATCH, CLASSES = 4, 5
PAIRS = [
    ("resnet56", "resnet20"),
    ("wrn_40_2", "resnet8x4"),
    ("vgg13", "mobilenetv2_05"),
    ("resnet32x4", "shufflenetv2_1x"),
    ("densenet40", "shufflenetv1"),
    ("resnet18_imagenet", "vgg8"),
    ("torchvision:resnet18", "resnet20"),
    ("resnet20", "torchvision:mobilenet_v3_small"),
]
# What cannot be done, and a word of the reason.
REFUSED: dict[tuple[str, str], str] = {
    ("kdfm", "resnet20-torchvision:mobilenet_v3_small"): "more than a pool and a linear layer",
    ("simkd", "resnet20-torchvision:mobilenet_v3_small"): "more than a pool and a linear layer",
    ("hmat", "torchvision:resnet18-resnet20"): "meet in one pixel",
    ("hmat", "resnet20-torchvision:mobilenet_v3_small"): "meet in one pixel",
    ("ofd", "torchvision:resnet18-resnet20"): "needs maps before their ReLU",
}
FITTING = ARGUMENTS | {"semckd": {"batch_size": BATCH}}


def settled(network: torch.nn.Module) -> torch.nn.Module:
    """With the BatchNorm statistics of a batch: those of a fresh network let DenseNet's maps grow to 1e5, as no trained one's."""
    norms = [m for m in network.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    rates = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = None  # the mean of all batches, here one
    with torch.no_grad(), torch.random.fork_rng():
        network.train()(torch.randn(BATCH, 3, 32, 32, generator=torch.Generator().manual_seed(3)))
    for norm, rate in zip(norms, rates, strict=True):
        norm.momentum = rate
    return network


@pytest.fixture(scope="module", params=PAIRS, ids="-".join)
def sides(request) -> tuple[str, Side, Side]:
    made = []
    for name in request.param:
        network = settled(models.build(name, classes=CLASSES, generator=torch.Generator().manual_seed(1)))
        made.append(Side(network, models.taps(name, network), (), (0.5,) * 3, (0.25,) * 3))
    return "-".join(request.param), *made


@pytest.mark.parametrize("use", sorted(registry.plugins("distillers")))
def test_two_steps(use, sides, tmp_path) -> None:
    pair, teacher, student = sides
    random = torch.Generator().manual_seed(2)
    images = torch.randint(256, (2 * BATCH, 32, 32, 3), generator=random, dtype=torch.uint8)
    data = TrainingData(images, torch.arange(2 * BATCH) % CLASSES, ("crop4", "flip"))
    distiller = registry.construct("distillers", use, FITTING.get(use, {}))
    settings = Settings(
        "student", Fit(epochs=1, batch_size=BATCH, lr=1e-4), 0, CLASSES, "cpu", "fp32", False, 1, tmp_path
    )
    network = copy.deepcopy(student.network)

    def train():
        wanted, seen = distiller.wanted(list(student.points), list(teacher.points) if distiller.needs_teacher else ())
        ours = Side(network, student.points, wanted, student.mean, student.std)
        theirs = Side(teacher.network, teacher.points, seen, teacher.mean, teacher.std)
        return fit(ours, theirs if distiller.needs_teacher else None, distiller, data, settings, Console(quiet=True))

    if (use, pair) in REFUSED:
        with pytest.raises(RecipeError, match=REFUSED[use, pair]) as raised:
            train()
        assert raised.value.hint
        return
    result = train()
    moved = [
        not torch.equal(old, new) for old, new in zip(student.network.parameters(), network.parameters(), strict=True)
    ]
    assert any(moved)
    logits = result.network(torch.rand(2, 3, 32, 32, generator=random))
    assert logits.shape == (2, CLASSES) and torch.isfinite(logits).all()
