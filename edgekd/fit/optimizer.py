"""The optimizer of a fit: the student's parameters in one group, the distiller's own groups behind it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from edgekd.fit.protocol import Teaching
from edgekd.recipe import Fit

MOMENTUM = 0.9  # standard protocol: SGD, no Nesterov, weight decay on every parameter
FUSED_DEVICES = ("cpu", "cuda")


def build(fit: Fit, network: nn.Module, distiller: Teaching, device: str) -> torch.optim.Optimizer:
    """SGD or AdamW; a distiller's group may bring its own `lr` and `weight_decay`, everything else is shared."""
    groups: list[dict[str, Any]] = [{"params": [p for p in network.parameters() if p.requires_grad]}]
    groups += [group for group in map(_listed, distiller.parameter_groups()) if group["params"]]
    for group in groups:
        group.setdefault("lr", fit.lr)
        group["base_lr"] = group["lr"]
    fused = device in FUSED_DEVICES
    if fit.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=fit.lr, weight_decay=fit.weight_decay, fused=fused)
    return torch.optim.SGD(groups, lr=fit.lr, momentum=MOMENTUM, weight_decay=fit.weight_decay, fused=fused)


def set_rate(optimizer: torch.optim.Optimizer, factor: float) -> float:
    """Set every group's rate to its base times the schedule's factor; gives the student's rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
    return float(optimizer.param_groups[0]["lr"])


def _listed(group: dict[str, Any]) -> dict[str, Any]:
    return {**group, "params": list(group["params"])}
