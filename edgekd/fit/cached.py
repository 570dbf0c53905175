"""Stored answers of a teacher to fixed views of the training images: how they lie on disk, and what a step reads of them.

One record a view and image, in rows of view * N + image: the reduced taps, flattened side by side in float16, and the
logits in float32. A batch is one gather from memory-mapped files.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from edgekd import models
from edgekd.augment import Drawn
from edgekd.errors import IntegrityError
from edgekd.fit import seeding
from edgekd.taps import Kind, Outputs, Reduction, Wanted, feature_taps, tapped

TAPS, LOGITS, DRAWN, FACTS = "taps.npy", "logits.npy", "drawn.safetensors", "views.json"

Shapes = Mapping[str, tuple[int, ...]]
Forms = Mapping[str, tuple[int, type[np.floating[Any]]]]


@dataclass(frozen=True)
class CachedViews:
    """K views of each of N training images, and the teacher's answers to them.

    Attributes:
        views: K, >= 1.
        drawn: What makes the views: of K * N images.
        shapes: Shape of each tap of one image, in the order in which a record holds them.
        taps: float16 [K * N, P].
        logits: float32 [K * N, classes].
        first: int64 [N], the view that each image shows in epoch 0: K epochs show each view once, in every batch there
            are several.
    """

    views: int
    drawn: Drawn
    shapes: Shapes
    taps: Tensor
    logits: Tensor
    first: Tensor

    def rows(self, index: Tensor, epoch: int) -> Tensor:
        """Records [B] that the images `index` [B] show in an epoch (counted from 0)."""
        return (self.first[index] + epoch) % self.views * len(self.first) + index

    def outputs(self, rows: Tensor, index: Tensor, device: str) -> Outputs:
        """The teacher's outputs for records [B], float32, on the device."""
        records = self.taps.index_select(0, rows).to(device, non_blocking=True).float()
        parts = torch.split(records, [math.prod(shape) for shape in self.shapes.values()], dim=1)
        shapes = zip(self.shapes.items(), parts, strict=True)
        taps = {key: part.view(len(part), *shape) for (key, shape), part in shapes}
        return Outputs(self.logits.index_select(0, rows).to(device), taps, index.to(device))


def stored(kind: Kind | None, reductions: Sequence[str], teacher: Sequence[str]) -> Wanted:
    """The taps that a record holds, out of the names that the teacher offers.

    Args:
        kind: `taps` of the method; None when it reads none.
        reductions: `cached` of the method.
        teacher: Names of its taps.

    Raises:
        RecipeError: It has none of that kind.
    """
    names = [] if kind is None or not reductions else feature_taps(teacher, kind, "teacher")
    return [(name, cast("Reduction", reduction)) for reduction in reductions for name in names]


def forms(shapes: Shapes, classes: int) -> Forms:
    """Numbers a record, and their type, of each file; a method that reads no tap has no file of them."""
    width = sum(math.prod(shape) for shape in shapes.values())
    return {LOGITS: (classes, np.float32), **({TAPS: (width, np.float16)} if width else {})}


def record_bytes(
    model: str, classes: int, image: tuple[int, int, int], kind: Kind | None, reductions: Sequence[str]
) -> int:
    """Bytes on disk of one view of one image.

    Args:
        model: The teacher.
        classes: Number of classes.
        image: (C, H, W).
        kind: See `stored`.
        reductions: See `stored`.

    Raises:
        RecipeError: The teacher has no such taps.
    """
    channels, *size = image
    network = models.build(model, classes=classes, channels=channels, size=(size[0], size[1])).eval()
    points = models.taps(model, network)
    plain = (0.0,) * channels, (1.0,) * channels
    with tapped(network, points, stored(kind, reductions, list(points)), *plain) as teacher, torch.no_grad():
        _, taps = teacher(torch.zeros(1, *image))
    widths = forms({key: tuple(tap.shape[1:]) for key, tap in taps.items()}, classes).values()
    return sum(width * np.dtype(dtype).itemsize for width, dtype in widths)


def packed(taps: Mapping[str, Tensor]) -> Tensor:
    """Records [B, P] float16 of reduced taps [B, ...]; a value above 65504 becomes infinite."""
    return torch.cat([tap.flatten(1) for tap in taps.values()], dim=1).to(torch.float16)


def write_facts(folder: Path, drawn: Drawn, shapes: Shapes, facts: Mapping[str, Any]) -> None:
    """Write what makes the views, and what is needed to read the records."""
    (folder / DRAWN).write_bytes(save({name: values.contiguous() for name, values in drawn.tensors.items()}))
    sizes = {"augment": list(drawn.spec), "taps": [{"key": key, "shape": list(shape)} for key, shape in shapes.items()]}
    (folder / FACTS).write_text(json.dumps({**facts, **sizes}, indent=1) + "\n", encoding="utf-8")


def open_views(folder: Path, seed: int) -> CachedViews:
    """The records of an artifact, memory-mapped.

    Args:
        folder: The artifact's.
        seed: Of the fit: in which order an image shows its views.

    Raises:
        IntegrityError: A file is not what it should be.
    """
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        shapes = {str(tap["key"]): tuple(tap["shape"]) for tap in facts["taps"]}
        drawn = Drawn(tuple(facts["augment"]), **load_file(folder / DRAWN))
        views, images = int(facts["views"]), int(facts["images"])
        logits = _mapped(folder / LOGITS, views * images)
        taps = _mapped(folder / TAPS, views * images) if shapes else torch.empty(views * images, 0)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise IntegrityError(
            str(folder), f"cannot be read: {error}", "a whole views artifact", "edgekd artifacts verify"
        ) from error
    first = torch.randint(views, (images,), generator=seeding.generator(seed, "first view"))
    return CachedViews(views, drawn, shapes, taps, logits, first)


def _mapped(path: Path, records: int) -> Tensor:
    # Copy on write: torch takes no read-only memory. Nothing is ever written.
    array = np.load(path, mmap_mode="c", allow_pickle=False)
    return torch.from_numpy(array.reshape(records, -1))
