"""What a run needs to go on: packed into named tensors and JSON, and put back in place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from edgekd.errors import IntegrityError
from edgekd.fit.ema import Average

Diagnostics = dict[str, npt.NDArray[Any]]


@dataclass
class State:
    """Everything of a run that changes from epoch to epoch.

    Attributes:
        network: The student.
        distiller: Its method's modules, or None when the method is no module.
        optimizer: Over both.
        random: The method's own generator.
        scaler: Loss scaling of fp16.
        average: Averaged weights, or None.
        history: One row a finished epoch.
        diagnostics: What the method says of itself, one a finished epoch.
        own: The method's own optimizers.
        best: Weights of the best epoch so far, where they are kept; see `edgekd.fit.best`.
    """

    network: nn.Module
    distiller: nn.Module | None
    optimizer: torch.optim.Optimizer
    random: torch.Generator
    scaler: torch.amp.GradScaler
    average: Average | None
    history: list[dict[str, Any]] = field(default_factory=list)
    diagnostics: list[Diagnostics] = field(default_factory=list)
    own: dict[str, torch.optim.Optimizer] = field(default_factory=dict)
    best: dict[str, Tensor] | None = None

    @property
    def epoch(self) -> int:
        """Finished epochs."""
        return len(self.history)


def pack(state: State) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors, JSON) of a run between two epochs."""
    tensors = {f"network/{name}": tensor for name, tensor in state.network.state_dict().items()}
    if state.distiller is not None:
        tensors |= {f"distiller/{name}": tensor for name, tensor in state.distiller.state_dict().items()}
    if state.average is not None:
        tensors |= {f"average/{name}": tensor for name, tensor in state.average.state.items()}
    for prefix, optimizer in _optimizers(state):
        for i, slots in optimizer.state_dict()["state"].items():
            tensors |= {f"{prefix}{i}/{name}": torch.as_tensor(slot) for name, slot in slots.items()}
    if state.best is not None:
        tensors |= {f"best/{name}": tensor for name, tensor in state.best.items()}
    tensors["random"] = state.random.get_state()
    texts: list[dict[str, Any]] = []
    for epoch, shown in enumerate(state.diagnostics):
        numbers = {name: array for name, array in shown.items() if array.dtype.kind in "biuf"}
        tensors |= {f"diagnostics/{epoch}/{name}": torch.from_numpy(array.copy()) for name, array in numbers.items()}
        texts.append({name: array.tolist() for name, array in shown.items() if name not in numbers})
    return tensors, {"history": state.history, "scaler": state.scaler.state_dict(), "texts": texts}


def unpack(state: State, tensors: Mapping[str, Tensor], rest: Mapping[str, Any], where: str) -> None:
    """Put a packed run back into freshly built modules, in their memory layout.

    Raises:
        IntegrityError: It is of another network, method or optimizer.
    """
    _load(state.network, _part(tensors, "network/"), where)
    if state.distiller is not None:
        _load(state.distiller, _part(tensors, "distiller/"), where)
    if state.average is not None:
        state.average.load(_part(tensors, "average/"))
    for prefix, optimizer in _optimizers(state):
        _load_optimizer(optimizer, _part(tensors, prefix))
    state.best = _part(tensors, "best/") or None
    state.random.set_state(tensors["random"])
    if rest["scaler"]:
        state.scaler.load_state_dict(dict(rest["scaler"]))
    state.history[:] = rest["history"]
    state.diagnostics.clear()
    for epoch, texts in enumerate(rest["texts"]):
        numbers = {name: tensor.numpy() for name, tensor in _part(tensors, f"diagnostics/{epoch}/").items()}
        state.diagnostics.append(numbers | {name: np.array(text) for name, text in texts.items()})


def _optimizers(state: State) -> list[tuple[str, torch.optim.Optimizer]]:
    """(prefix of its tensors, optimizer): the student's, then the method's own."""
    return [("optimizer/", state.optimizer), *((f"own/{name}/", own) for name, own in state.own.items())]


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _load(module: nn.Module, tensors: dict[str, Tensor], where: str) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if found != shapes:
        different = sorted(name for name in {*shapes, *found} if shapes.get(name) != found.get(name))
        raise IntegrityError(
            where,
            f"the checkpoint is of another network or method: {', '.join(different[:3])} ...",
            hint="delete this folder to train from the start",
        )
    module.load_state_dict(tensors)


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for name, saved in tensors.items():
        number, _, slot = name.partition("/")
        parameter = parameters[int(number)]
        if saved.shape == parameter.shape:
            # Same strides as in the unbroken run: vectorised kernels round the same numbers differently in another layout.
            optimizer.state[parameter][slot] = torch.empty_like(parameter).copy_(saved)
        else:
            optimizer.state[parameter][slot] = saved.clone()
