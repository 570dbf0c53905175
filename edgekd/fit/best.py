"""`fit.keep: best`: the weights of the best validation epoch are held beside the newest ones and given back in the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from edgekd.errors import RecipeError
from edgekd.recipe import Fit

FIGURE = "val_top1_percent"
NETWORK, METHOD = "network/", "distiller/"


def refuse(fit: Fit, where: str) -> None:
    """To be called where nothing is held out for validation.

    Raises:
        RecipeError: The fit shall keep its best epoch.
    """
    if fit.keep == "best":
        found = "best, and no image is held out for validation"
        raise RecipeError(f"{where}.keep", found, "validation images: test decides nothing", "--set data.val=5000")


def is_best(history: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the newest row is better on validation than every row before it."""
    *before, newest = (float(row[FIGURE]) for row in history)
    return not before or newest > max(before)


def epoch(history: Sequence[Mapping[str, Any]]) -> int:
    """The epoch, counted from 1, of the best row; the first of equals."""
    return 1 + max(range(len(history)), key=lambda i: float(history[i][FIGURE]))


def copied(network: Mapping[str, Tensor], method: nn.Module | None) -> dict[str, Tensor]:
    """The weights to validate and ship, and the method's own, which may be part of what is shipped."""
    tensors = {f"{NETWORK}{name}": tensor for name, tensor in network.items()}
    if method is not None:
        tensors |= {f"{METHOD}{name}": tensor for name, tensor in method.state_dict().items()}
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def put_back(kept: Mapping[str, Tensor], network: nn.Module, method: nn.Module | None) -> None:
    """Load what `copied` gave."""
    network.load_state_dict(_part(kept, NETWORK))
    if method is not None:
        method.load_state_dict(_part(kept, METHOD))


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
