"""Networks of torchvision and timm, from random weights, for any classes, and for the images' own size and channels.

Source: torchvision.models (BSD-3), timm (R. Wightman, Apache-2.0): built by their own constructors, nothing is downloaded.
Needs: `pip install 'edgekd[timm]'` for `timm:`. Three things differ from the packages' networks: auxiliary heads are off,
no layer works in place (a tap would see it), and BatchNorm statistics average over 10 batches as torch's own do.
MobileNetV3 ships with 100 and MNASNet with 3,333, made for ImageNet's half a million steps: after a few hundred, the
statistics are still near their initial values. Seen after 282 steps of a MobileNetV3-Small on 10 classes: 10.3 % top-1 with
its own 100 batches, 30.5 % with 10 (n = 600, the same training).
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from edgekd.errors import MissingTool, RecipeError
from edgekd.models import catalogue, probe
from edgekd.models.initialise import drawing
from edgekd.taps import TapPoint

FOREIGN: dict[str, str] = {}  # see `ours`
AUXILIARY = re.compile(r"(aux1|aux2|AuxLogits)\.")  # heads of GoogLeNet's and Inception's published weights
DENSE = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")  # as DenseNet's published weights name its layers
PREFIX = "network."
LEAST_MOMENTUM = 0.1  # torch's default
# What a constructor must be told beside the classes: (H, W) -> arguments, by the beginning of the name.
TOLD: dict[str, Callable[[tuple[int, int]], dict[str, Any]]] = {
    "vit_": lambda size: {"image_size": size[0]},
    "maxvit": lambda size: {"input_size": size},
    "googlenet": lambda size: {"aux_logits": False, "init_weights": True},
    "inception": lambda size: {"aux_logits": False, "init_weights": True},
}


class Foreign(nn.Module):
    """A network of another package that knows its images and its classifier.

    Args:
        name: `torchvision:<name>` or `timm:<name>`.
        network: Returns logits.
        head: Path of its classifier inside it.
        channels: Image channels.
        size: (H, W) in pixels.
    """

    def __init__(self, name: str, network: nn.Module, head: str, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.name = name
        self.network = network
        self.head, self.channels, self.size = PREFIX + head, channels, size

    @property
    def classifier(self) -> nn.Module:
        """The layer whose outputs are the logits."""
        return self.get_submodule(self.head)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, classes] of normalised images [B, channels, H, W]."""
        logits: Tensor = self.network(x)
        return logits

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As torch's; a plain mapping is of this version of the layers (MNASNet refuses weights that do not say theirs)."""
        state = OrderedDict(state_dict)
        state._metadata = getattr(state_dict, "_metadata", self.state_dict()._metadata)  # type: ignore[attr-defined]
        return super().load_state_dict(state, strict, assign)


def build(
    name: str, classes: int, channels: int, size: tuple[int, int], generator: torch.Generator | None
) -> nn.Module:
    """The network of that name, initialised as its package does it.

    Raises:
        RecipeError: No such network, or it cannot be built for these images.
        MissingTool: The package is not installed.
    """
    package, architecture = catalogue.split(name)
    try:
        with drawing(generator):
            network = _BUILDERS[package](architecture, classes, channels, size)
    except (AssertionError, ValueError, RuntimeError, TypeError) as error:
        raise probe.unfit(name, channels, size, error) from error
    for module in network.modules():
        if getattr(module, "inplace", False) is True:
            module.inplace = False  # type: ignore[assignment]
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.momentum is not None:
            module.momentum = max(module.momentum, LEAST_MOMENTUM)
    return Foreign(name, network, _head(name, network, classes), channels, size)


def taps(network: nn.Module) -> dict[str, TapPoint]:
    """See `probe.points`: stem, block.i, stage.i and pooled, as far as the network has maps."""
    assert isinstance(network, Foreign)
    try:
        return probe.points(network, network.head, network.channels, network.size)
    except (AssertionError, ValueError, RuntimeError) as error:  # what layers raise that an image is too small for
        raise probe.unfit(network.name, network.channels, network.size, error) from error


def ours(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state under our names: as it is when it is one of ours, else one of the network inside, as published."""
    plain = {str(key).removeprefix("module."): value for key, value in state.items()}
    if all(key.startswith(PREFIX) for key in plain):
        return plain
    return {PREFIX + DENSE.sub(r"\1\2", key): value for key, value in plain.items() if not AUXILIARY.match(key)}


def _torchvision(architecture: str, classes: int, channels: int, size: tuple[int, int]) -> nn.Module:
    from torchvision.models import get_model

    told = next((tell(size) for start, tell in TOLD.items() if architecture.startswith(start)), {})
    network: nn.Module = get_model(architecture, weights=None, num_classes=classes, **told)
    if channels != 3:
        _take_channels(network, channels)
    return network


def _timm(architecture: str, classes: int, channels: int, size: tuple[int, int]) -> nn.Module:
    try:
        import timm
    except ModuleNotFoundError as error:
        raise MissingTool(
            "model", f"package {error.name} is not installed", "timm", catalogue.INSTALL["timm"]
        ) from error
    config = timm.get_pretrained_cfg(architecture)
    told = {"img_size": size} if config is not None and config.fixed_input_size else {}
    network: nn.Module = timm.create_model(
        architecture, pretrained=False, num_classes=classes, in_chans=channels, **told
    )
    return network


_BUILDERS = {"torchvision": _torchvision, "timm": _timm}


def _take_channels(network: nn.Module, channels: int) -> None:
    """Give the first convolution so many input channels: the sum of its filters over red, green and blue, shared out,
    which answers a grey image as the colour network answers it in three equal channels.
    """
    path, old = next((path, module) for path, module in network.named_modules() if isinstance(module, nn.Conv2d))
    with torch.random.fork_rng(devices=[]):  # its own draws are overwritten
        new = nn.Conv2d(
            channels,
            old.out_channels,
            old.kernel_size,  # type: ignore[arg-type]
            old.stride,  # type: ignore[arg-type]
            old.padding,  # type: ignore[arg-type]
            old.dilation,  # type: ignore[arg-type]
            bias=old.bias is not None,
        )
    with torch.no_grad():
        new.weight.copy_(old.weight.sum(1, keepdim=True).expand_as(new.weight) / channels)
        if old.bias is not None and new.bias is not None:
            new.bias.copy_(old.bias)
    network.set_submodule(path, new)


def _head(name: str, network: nn.Module, classes: int) -> str:
    """Path of the last layer that gives one value a class: a linear one, or in a network without any a 1x1 convolution."""
    if isinstance(getattr(network, "get_classifier", lambda: None)(), tuple):
        raise RecipeError("model", f"{name} has two classifiers", "one classifier", "the variant that is not distilled")
    layers = list(network.named_modules())
    linear = [path for path, layer in layers if isinstance(layer, nn.Linear) and layer.out_features == classes]
    convolution = [path for path, layer in layers if isinstance(layer, nn.Conv2d) and layer.out_channels == classes]
    if not linear and not convolution:
        raise RecipeError("model", f"{name} ends in no linear layer or convolution", "one classifier", "another model")
    return str((linear or convolution)[-1])
