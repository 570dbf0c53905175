"""The module with which a network pools its last map for the classifier."""

from __future__ import annotations

from torch import nn

ONE = (1, (1, 1))  # output sizes of a pool to one pixel
ROOTS = ("", "network")  # a network of ours, and one of another package inside its wrapper


def global_pool(network: nn.Module) -> str | None:
    """Path of the last pool to one pixel that stands in no block of convolutions (squeeze-and-excitation has pools too).

    None where a network pools without a module, or after its classifier.
    """
    found = None
    for path, module in network.named_modules():
        parent = path.rpartition(".")[0]
        if isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size in ONE:
            beside = () if parent in ROOTS else network.get_submodule(parent).modules()
            found = found if any(isinstance(other, nn.Conv2d) for other in beside) else path
    return found
