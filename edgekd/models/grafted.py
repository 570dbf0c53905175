"""A network with layers of a distillation method before its global pool and another classifier behind it, as it is shipped.

What was grafted is described by plain data, so that the network can be made again from `model.json` and its weights.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from edgekd.errors import RecipeError
from edgekd.models.pooling import global_pool

Layer = Mapping[str, Any]  # {"kind": conv | bn | relu | pool, and its sizes}

_MAKE: dict[str, Callable[..., nn.Module]] = {
    "conv": lambda inputs, outputs, kernel: nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False),
    "bn": lambda channels: nn.BatchNorm2d(channels),
    "relu": lambda: nn.ReLU(),
    "pool": lambda factor: nn.AvgPool2d(factor),
}


def adapter(layers: Sequence[Layer]) -> nn.Sequential:
    """The layers, from map [B, C, H, W] to map: `conv` (inputs, outputs, odd kernel; no bias, same size), `bn` (channels),
    `relu`, `pool` (factor: means over factor x factor pixels). Empty: the identity.
    """
    return nn.Sequential(*(_MAKE[layer["kind"]](**{k: v for k, v in layer.items() if k != "kind"}) for layer in layers))


def describe(layers: nn.Sequential) -> list[dict[str, Any]]:
    """What `adapter` makes the same layers of."""
    return [_described(layer) for layer in layers]


def graft(student: nn.Module, layers: nn.Sequential, classifier: nn.Linear) -> nn.Module:
    """A copy of the student with copies of the layers before its global pool and of the classifier in place of its own.

    Args:
        student: A network of `models.build`; left as it is.
        layers: Made by `adapter`.
        classifier: Of the pooled channels that the layers give.

    Raises:
        RecipeError: See `require_graftable`.
    """
    inputs = next((layer.in_channels for layer in layers if isinstance(layer, nn.Conv2d)), classifier.in_features)
    require_graftable(student, inputs, "student")
    made = copy.deepcopy(student)
    return _put(made, copy.deepcopy(layers), copy.deepcopy(classifier))


def regraft(network: nn.Module, said: Mapping[str, Any]) -> nn.Module:
    """A bare network with what `said` (its `graft`) describes put in, weights still to be loaded; changes the network."""
    inputs, outputs = said["classifier"]
    return _put(network, adapter(said["layers"]), nn.Linear(inputs, outputs))


def require_graftable(network: nn.Module, channels: int, role: str) -> None:
    """See that a network classifies the pooled channels of its last map with one linear layer.

    Args:
        network: Of `models.build`.
        channels: Of its `last` map.
        role: student or teacher, for the message.

    Raises:
        RecipeError: It pools without a module, or something stands between the pool and a linear classifier.
    """
    head = network.get_submodule(_head(network))
    if global_pool(network) is None:
        raise RecipeError("distill.use", f"the {role} pools its last map without a module", *_WANTED)
    if not isinstance(head, nn.Linear) or head.in_features != channels:
        raise RecipeError(
            "distill.use", f"the {role} has more than a pool and a linear layer after its last map", *_WANTED
        )


_WANTED = ("a network whose classifier is a linear layer on its pooled last map", "another network, or another method")


def _head(network: nn.Module) -> str:
    return getattr(network, "head", "classifier")


def _put(network: nn.Module, layers: nn.Sequential, classifier: nn.Linear) -> nn.Module:
    path = global_pool(network)
    assert path is not None  # see `require_graftable`
    said = {"layers": describe(layers), "classifier": [classifier.in_features, classifier.out_features]}
    _set(network, path, nn.Sequential(layers, network.get_submodule(path)))
    _set(network, _head(network), classifier)
    network.graft = said  # type: ignore[assignment]  # plain data, no module
    return network


def _set(network: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(network.get_submodule(parent), name, module)


def _described(layer: nn.Module) -> dict[str, Any]:
    if isinstance(layer, nn.Conv2d):
        return {
            "kind": "conv",
            "inputs": layer.in_channels,
            "outputs": layer.out_channels,
            "kernel": layer.kernel_size[0],
        }
    if isinstance(layer, nn.BatchNorm2d | nn.SyncBatchNorm):  # several processes on CUDA train the latter
        return {"kind": "bn", "channels": layer.num_features}
    if isinstance(layer, nn.AvgPool2d):
        return {"kind": "pool", "factor": layer.kernel_size}
    return {"kind": "relu"}
