"""Stage `views`: the teacher's answers to fixed views of the training images, computed once for `distill.cached_views`."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edgekd import augment, models
from edgekd.artifact import Artifact
from edgekd.console import Console
from edgekd.durable import write_whole
from edgekd.errors import StageFailed
from edgekd.fit import cached, compiling, ready, seeding
from edgekd.fit.batches import TrainingData
from edgekd.fit.memory import memory_errors
from edgekd.fit.process import autocast, own_torch
from edgekd.fit.request import Settings
from edgekd.models.fold import fold_batchnorm
from edgekd.params import ViewsParams
from edgekd.stages import evaluate, reserved
from edgekd.stages.base import RunContext, StageResult
from edgekd.taps import Tapped, tapped

VERSION = 1

DONE = "done.json"
KEPT_EVERY = 128  # batches between two marks from which a killed run goes on
HIGHEST = 65504  # of float16


def check(params: ViewsParams, context: RunContext) -> None:
    """See that the teacher has the taps; look at device and settings.

    Raises:
        RecipeError: The teacher has no such taps.
        MissingTool: The device or the compiler named is not there.
    """
    ready.check(params.fit, context.device, "student.fit", compile_allowed=context.compile)
    if context.teacher_model is not None:
        draft = evaluate.draft(context.teacher_model, context)
        cached.stored(params.taps, params.reductions, list(models.taps(context.teacher_model, draft)))


def run(params: ViewsParams, inputs: Mapping[str, Artifact], out: Path, context: RunContext) -> StageResult:
    """Draw the views, run the teacher on each, write its logits and reduced taps.

    Args:
        params: See `ViewsParams`.
        inputs: `data` and `teacher`.
        out: Where the files of `edgekd.fit.cached` go.
        context: See `RunContext`.

    Raises:
        RecipeError: The teacher is of other classes than the data.
        StageFailed: The disk has no room for all, memory runs out, or a value is too large for float16.
    """
    data = evaluate.open_data(inputs["data"], params.roles)
    shown = data.training(params.augment)
    n = len(shown.labels)
    drawn = augment.draw(shown.augment, params.views * n, data.size, seeding.generator(params.seed, "views"))
    decision = compiling.decide(params.fit, n, context.device, allowed=context.compile)
    settings = evaluate.settings("views", params.fit, params.seed, data, decision.on, context)
    with _teacher(params, inputs["teacher"], data, settings) as teacher:
        shapes = _shapes(teacher, shown, settings)
        records = _Records(context.resume, (params.views, n), cached.forms(shapes, data.classes), context.console)
        context.console.log(
            f"views: {params.views} of each of {n:,} images, {records.bytes / 1e6:,.0f} MB, "
            f"on {context.device}, {context.precision}, {decision.reason}"
        )
        figures = _answered(teacher, shown, drawn, records, settings, context.console)
    records.publish(out)
    facts = {"views": params.views, "images": n, "seed": params.seed, "teacher": inputs["teacher"].digest}
    cached.write_facts(out, drawn, shapes, facts)
    compiled = {"compiled": decision.on, "compile_reason": decision.reason}
    metrics = {"views": params.views, "images": n, "file_bytes": records.bytes, **figures, **compiled}
    return StageResult(metrics, (*records.arrays, cached.DRAWN, cached.FACTS))


@contextmanager
def _teacher(params: ViewsParams, artifact: Artifact, data: evaluate.Data, settings: Settings) -> Iterator[Tapped]:
    """The teacher as live training has it: frozen, folded, channels_last, its taps reduced in its forward."""
    network, model, (mean, std) = evaluate.read_network(artifact, data)
    points = models.taps(model, network)
    folded = fold_batchnorm(network).to(settings.device)
    folded.to(memory_format=torch.channels_last)
    hint = "--set student.fit.device=cpu, or other programs closed"
    with own_torch(settings), memory_errors(settings, hint):
        wanted = cached.stored(params.taps, params.reductions, list(points))
        with tapped(folded, points, wanted, mean, std) as teacher, torch.no_grad():
            yield teacher.eval()


def _shapes(teacher: Tapped, shown: TrainingData, settings: Settings) -> cached.Shapes:
    with autocast(settings):
        _, taps = teacher(augment.apply(shown.images[:1], augment.Drawn(())).to(settings.device))
    return {key: tuple(tap.shape[1:]) for key, tap in taps.items()}


class _Records:
    """The files in the making. They lie in the resume folder until they are whole, with a mark of how far they are."""

    def __init__(self, folder: Path, shape: tuple[int, int], forms: cached.Forms, console: Console) -> None:
        self.folder, self.total, self.done = folder, shape[0] * shape[1], 0
        self.arrays: dict[str, npt.NDArray[Any]] = {}
        if (folder / DONE).is_file():
            try:
                self.arrays = {name: np.load(folder / name, mmap_mode="r+", allow_pickle=False) for name in forms}
                self.done = int(json.loads((folder / DONE).read_text(encoding="utf-8"))["records"])
                console.log(f"views: going on after {self.done:,} of {self.total:,}")
            except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
                console.log(f"views: what was begun is unusable ({error}): starting anew")
                self.arrays = {}
        try:
            for name, (width, dtype) in forms.items() if not self.arrays else ():
                self.arrays[name] = reserved.create(folder / name, (*shape, width), dtype)
        except StageFailed:
            for name in forms:  # what there was room for would keep the disk full
                (folder / name).unlink(missing_ok=True)
            raise

    @property
    def bytes(self) -> int:
        """On disk, nearly."""
        return sum(array.nbytes for array in self.arrays.values())

    def write(self, values: Mapping[str, Tensor]) -> None:
        """Put the next records into their files."""
        count = 0
        for name, array in self.arrays.items():
            count = len(values[name])
            array.reshape(self.total, -1)[self.done : self.done + count] = values[name].cpu().numpy()
        self.done += count

    def mark(self) -> None:
        """Bring what is written to the disk; a killed run goes on from here."""
        for array in self.arrays.values():
            cast("np.memmap[Any, Any]", array).flush()
        write_whole(self.folder / DONE, json.dumps({"records": self.done}).encode())

    def publish(self, out: Path) -> None:
        """Give the files to the artifact. As links: they stay here, too, should sealing it be cut short."""
        for name in self.arrays:
            try:
                (out / name).hardlink_to(self.folder / name)
            except OSError:  # a file system without links
                shutil.copyfile(self.folder / name, out / name)


def _answered(
    teacher: Tapped,
    shown: TrainingData,
    drawn: augment.Drawn,
    records: _Records,
    settings: Settings,
    console: Console,
) -> dict[str, float]:
    """Fill the records that are missing; gives the figures of this attempt."""
    fast = compiling.compiled_teacher(teacher) if settings.compile else teacher
    size, todo = settings.fit.batch_size, records.total - records.done
    begun = since = time.perf_counter()
    with console.task("views", todo, "img") as task:
        for number, start in enumerate(range(records.done, records.total, size), 1):
            rows = torch.arange(start, min(start + size, records.total))
            images = augment.apply(shown.images[rows % len(shown.labels)], drawn[rows]).to(settings.device)
            with autocast(settings):
                logits, taps = (fast if len(rows) == size else teacher)(images)
            records.write({cached.LOGITS: logits.float(), **_packed(taps)})
            if number % KEPT_EVERY == 0 or records.done == records.total:
                records.mark()
            task.advance(len(rows))
            if number == 1:
                since = time.perf_counter()  # the first batch compiles
    end = time.perf_counter()
    speed = {"images_per_second": (todo - size) / (end - since)} if todo > size else {}
    return {"seconds": end - begun, **speed}


def _packed(taps: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if not taps:
        return {}
    records = cached.packed(taps)
    if not torch.isfinite(records).all():
        key, value = next((key, tap.abs().max().item()) for key, tap in taps.items() if not tap.half().isfinite().all())
        raise StageFailed(
            f"views: tap {key}",
            f"the teacher gives {value:.3g}",
            f"at most {HIGHEST}, the largest number of float16",
            "leave out distill.cached_views: a teacher that looks on live is read in float32",
        )
    return {cached.TAPS: records}
