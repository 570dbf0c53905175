"""What `train` and `distill` share: the data of a step, a network's answers, and the files of a network's artifact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save as save_tensors
from torch import nn

from edgekd import models, predictions
from edgekd.artifact import Artifact
from edgekd.crops import Uncut
from edgekd.data import normalize, roles
from edgekd.errors import RecipeError
from edgekd.fit import seeding
from edgekd.fit.batches import TrainingData
from edgekd.fit.distributed import ALONE, Group
from edgekd.fit.evaluate import evaluate
from edgekd.fit.request import Settings, Side, Validate
from edgekd.fit.state import Diagnostics
from edgekd.models import catalogue
from edgekd.models.checkpoint import load_checkpoint
from edgekd.models.count import count
from edgekd.models.fold import fold_batchnorm
from edgekd.models.grafted import regraft
from edgekd.params import Roles
from edgekd.predictions import Predictions
from edgekd.recipe import Fit
from edgekd.stages.base import RunContext
from edgekd.stages.converted import read_json, write_json

WEIGHTS, MODEL, HISTORY, DIAGNOSTICS = "weights.safetensors", "model.json", "history.json", "diagnostics.npz"
PAYLOAD = (WEIGHTS, MODEL, predictions.FILE)
ANY_CLASSES, RGB, ANY_SIZE = 10, 3, (32, 32)  # of a network that is drafted before the data are made
FOREIGN_SIZE = (224, 224)  # likewise of another package's: what they were made for, and some take no less

Normal = tuple[Sequence[float], Sequence[float]]


@dataclass(frozen=True)
class Data:
    """A data artifact as a training step sees it.

    Attributes:
        arrays: Images, labels and rows by role.
    """

    arrays: roles.RoleArrays

    @property
    def facts(self) -> Mapping[str, Any]:
        """Its `data.json`."""
        return self.arrays.info

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.facts["classes"])

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        return int(self.facts["height"]), int(self.facts["width"])

    def normal(self, name: str, where: str = "teacher.normalize") -> Normal:
        """(mean, std) a channel for the recipe's `normalize`, which stands at `where`."""
        mean, std = normalize.resolve(name, self.facts, where)
        return tuple(mean), tuple(std)

    def build(self, model: str, generator: torch.Generator | None = None) -> nn.Module:
        """A network for these images and classes."""
        channels = int(self.facts["channels"])
        return models.build(model, classes=self.classes, channels=channels, size=self.size, generator=generator)

    def training(self, augment: tuple[str, ...] | None) -> TrainingData:
        """The training images, in memory unless `rrc` cuts them out of whole photos; augment None: the data set's own."""
        tokens = tuple(self.facts["augment"]) if augment is None else augment
        labels = torch.from_numpy(np.asarray(self.arrays.labels("train"), dtype=np.int64))
        if "rrc" in tokens and self.arrays.photos is not None:
            return TrainingData(Uncut(self.arrays.photos, self.size), labels, tokens)
        images = self.arrays.images("train")
        inside = torch.from_numpy(np.ascontiguousarray(images.images[images.rows]))
        return TrainingData(inside, labels, tokens)


def open_data(artifact: Artifact, wanted: Roles) -> Data:
    """The data artifact, split into roles."""
    return Data(roles.split(artifact, wanted))


def draft(model: str, context: RunContext) -> nn.Module:
    """A network to look at before work: for these images and classes, or for any while the data are not made yet."""
    size = context.size or (FOREIGN_SIZE if catalogue.is_foreign(model) else ANY_SIZE)
    return models.build(model, classes=context.classes or ANY_CLASSES, channels=context.channels or RGB, size=size)


def answers(network: nn.Module, data: Data, normal: Normal, device: str, which: Sequence[str]) -> Predictions:
    """The network's predictions for the rows of the roles that hold any."""
    parts = []
    for role in which:
        images = data.arrays.images(role)
        if len(images.rows):
            logits = evaluate(network, images.images, images.rows, *normal, device=device)
            parts.append(Predictions.make(images.rows, data.arrays.labels(role), logits, role))
    return Predictions.join(parts)


def validator(data: Data, normal: Normal, device: str) -> Validate | None:
    """Top-1 on the held-out part of train after each epoch; None when nothing is held out. Test is never touched here."""
    if not len(data.arrays.rows.get("val", ())):
        return None

    def validate(network: nn.Module) -> dict[str, float]:
        right = answers(network, data, normal, device, ("val",)).right
        return {"val_top1_percent": 100.0 * float(right.mean())}

    return validate


def settings(
    where: str, fit: Fit, seed: int, data: Data, compiled: bool, context: RunContext, group: Group = ALONE
) -> Settings:
    """How the fit of a step runs here; `seed` is the recipe's, from which the step's own is derived."""
    return Settings(
        where=where,
        fit=fit,
        seed=seeding.derive(seed, where),
        classes=data.classes,
        device=context.device,
        precision=context.precision,
        compile=compiled,
        threads=context.threads,
        resume=context.resume,
        group=group,
    )


def write_network(
    out: Path,
    network: nn.Module,
    model: str,
    data: Data,
    normal: Normal,
    unfolded: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """Write `weights.safetensors` (same weights, same bytes) and `model.json`; gives the counts as metrics.

    Args:
        out: The folder.
        network: What to write.
        model: Its name.
        data: What it is for.
        normal: Of its input.
        unfolded: The counts of the network whose BatchNorms were folded into this one; None: nothing was folded.
    """
    state = network.state_dict()
    (out / WEIGHTS).write_bytes(save_tensors({name: state[name].detach().cpu().contiguous() for name in sorted(state)}))
    channels = int(data.facts["channels"])
    parameters, macs = count(network, channels, data.size)
    counts = {"parameters": parameters, "macs": macs} if unfolded is None else dict(unfolded)
    facts = {
        "model": model,
        "classes": list(data.facts["classes"]),
        "channels": channels,
        "height": data.size[0],
        "width": data.size[1],
        "normalize": {"mean": list(normal[0]), "std": list(normal[1])},
        **counts,
        **({} if unfolded is None else {"folded": True}),
    }
    said = getattr(network, "graft", None)  # layers of a method that are shipped with the student
    write_json(out / MODEL, facts if said is None else {**facts, "graft": said})
    return counts


def read_network(artifact: Artifact, data: Data) -> tuple[nn.Module, str, Normal]:
    """The network of a teacher or student artifact, its model name and its normalisation.

    Raises:
        RecipeError: It was made for other classes or images.
    """
    facts = read_json(artifact.path / MODEL)
    if len(facts["classes"]) != data.classes:
        raise RecipeError(
            artifact.step,
            f"{artifact.id} is for {len(facts['classes'])} classes",
            f"{data.classes} classes, as the data have",
            "a teacher made from the same data",
        )
    network = data.build(facts["model"])
    if "graft" in facts:
        network = regraft(network, facts["graft"])
    if facts.get("folded"):
        network = fold_batchnorm(network, across=True)
    load_checkpoint(network, artifact.path / WEIGHTS, facts["model"], where=artifact.id)
    return network, facts["model"], (tuple(facts["normalize"]["mean"]), tuple(facts["normalize"]["std"]))


def read_side(artifact: Artifact, data: Data) -> Side:
    """The network of a teacher's artifact as a fit takes it, with no tap wanted yet; see `read_network` for errors."""
    network, model, normal = read_network(artifact, data)
    return Side(network, models.taps(model, network), (), *normal)


def write_history(out: Path, history: Sequence[Mapping[str, Any]], diagnostics: Sequence[Diagnostics]) -> None:
    """Write `history.json`, and `diagnostics.npz` when there are any: the last of each, and `<name>_history` of arrays."""
    write_json(out / HISTORY, list(history))
    if not diagnostics:
        return
    arrays = dict(diagnostics[-1])
    for name, last in diagnostics[-1].items():
        if last.dtype.kind in "biuf":
            arrays[f"{name}_history"] = np.stack([shown[name] for shown in diagnostics])
    with (out / DIAGNOSTICS).open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
