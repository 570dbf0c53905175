"""BatchNorm folded into the convolution before it: the frozen teacher in fewer passes over memory."""

from __future__ import annotations

import copy

from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold_batchnorm(network: nn.Module, across: bool = False) -> nn.Module:
    """A frozen copy in eval mode with the same outputs, its BatchNorms folded where that is exact.

    A BatchNorm is folded, and an identity left in its place, when it alone reads a convolution of the same parent
    module. A network whose control flow hangs on its input (some of timm's) cannot be looked through: it is only frozen.
    Module paths stay, so taps still find their layers; only the bare output of a folded convolution means
    something else, and no family taps one that its own parent normalises.

    Args:
        network: Any.
        across: Fold also where the two are of different parents, as exporters do; some families tap such a convolution.
    """
    folded = copy.deepcopy(network).eval().requires_grad_(False)
    for conv_path, norm_path in foldable(folded, across):
        conv, norm = folded.get_submodule(conv_path), folded.get_submodule(norm_path)
        assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
        put(folded, conv_path, fuse_conv_bn_eval(conv, norm).requires_grad_(False))
        put(folded, norm_path, nn.Identity())
    return folded.eval()


def foldable(network: nn.Module, across: bool = False) -> list[tuple[str, str]]:
    """(convolution, BatchNorm behind it) by path, where `fold_batchnorm` folds."""
    try:
        graph = fx.symbolic_trace(network).graph
    except fx.proxy.TraceError:
        return []
    calls = [str(node.target) for node in graph.nodes if node.op == "call_module"]
    pairs = []
    for node in graph.nodes:
        before = node.args[0] if node.op == "call_module" and node.args else None
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) > 1:
            continue
        conv, norm = str(before.target), str(node.target)
        kinds = isinstance(network.get_submodule(conv), nn.Conv2d) and isinstance(
            network.get_submodule(norm), nn.BatchNorm2d
        )
        if kinds and (across or parent(conv) == parent(norm)) and calls.count(conv) == calls.count(norm) == 1:
            pairs.append((conv, norm))
    return pairs


def put(network: nn.Module, path: str, module: nn.Module) -> None:
    """Set the module at a path of the network."""
    setattr(network.get_submodule(parent(path)), path.rpartition(".")[2], module)


def parent(path: str) -> str:
    """Path of the module that a module belongs to."""
    return path.rpartition(".")[0]
