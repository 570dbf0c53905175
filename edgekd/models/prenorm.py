"""The BatchNorms before the last ReLU of a network's stages."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, cast

import torch
from torch import fx, nn

if TYPE_CHECKING:
    from edgekd.models import Family

SUMS = (operator.add, torch.add)


def norms_before(network: nn.Module, taps: Sequence[str]) -> list[nn.BatchNorm2d | None]:
    """The BatchNorm whose output each of these taps of a network of ours is, alone or plus a shortcut.

    None where a tap is something else: joined channels, the output of an activation. The first summand is the branch, whose
    BatchNorm counts; a shortcut may have its own.
    """
    points = cast("Family", import_module(type(network).__module__)).taps(network)
    graph = fx.symbolic_trace(network).graph
    layers = {node.target: node for node in graph.nodes if node.op == "call_module"}
    found: list[nn.BatchNorm2d | None] = []
    for tap in taps:
        path, side = points[tap]
        node = layers[path].args[0] if side == "input" else layers[path]
        while isinstance(node, fx.Node) and node.op == "call_function" and node.target in SUMS:
            node = node.args[0]
        module = _module(network, node)
        found.append(module if isinstance(module, nn.BatchNorm2d) else None)
    return found


def _module(network: nn.Module, node: object) -> nn.Module | None:
    if not isinstance(node, fx.Node) or node.op != "call_module":
        return None
    return network.get_submodule(str(node.target))
