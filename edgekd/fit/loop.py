"""THE training loop: teachers (under the distiller that uses labels alone) and students go through it. No method is named in it."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekd.console import Console, Task
from edgekd.errors import RecipeError
from edgekd.fit import checkpoint, compiling, optimizer, schedule, seeding
from edgekd.fit.batches import Batch, TrainingData, batches, count
from edgekd.fit.ema import Average
from edgekd.fit.memory import memory_errors
from edgekd.fit.meter import Meter
from edgekd.fit.process import autocast, own_torch
from edgekd.fit.protocol import Context, Progress, Teaching
from edgekd.fit.request import FitResult, Settings, Side, Validate
from edgekd.fit.state import State, pack, unpack
from edgekd.models.fold import fold_batchnorm
from edgekd.taps import Outputs, Tapped, tapped

EXAMPLES = 2  # images shown in `setup`


def fit(
    student: Side,
    teacher: Side | None,
    distiller: Teaching,
    data: TrainingData,
    settings: Settings,
    console: Console,
    validate: Validate | None = None,
) -> FitResult:
    """Train the student; go on from the newest checkpoint in `settings.resume` when there is one.

    Args:
        student: Trained in place.
        teacher: Never changed; None when the distiller needs none.
        distiller: Gives the loss.
        data: Training images.
        settings: Everything else.
        console: Progress.
        validate: Called after each epoch with the deployable network; what it gives goes into the history row.

    Raises:
        RecipeError: Fewer than two training images.
        StageFailed: A loss is NaN or infinite, memory runs out, or a checkpoint cannot be written.
        IntegrityError: There are checkpoints and none can be used.
    """
    with own_torch(settings), memory_errors(settings), ExitStack() as stack:
        run = _Run(student, teacher, distiller, data, settings, stack)
        saved = checkpoint.load(settings.resume, console)
        if saved is not None:
            unpack(run.state, *saved, str(settings.resume))
            console.log(f"{settings.where}: going on after epoch {run.state.epoch} of {settings.fit.epochs}")
        with console.task(settings.where, len(data.labels) * (settings.fit.epochs - run.state.epoch), "img") as task:
            while run.state.epoch < settings.fit.epochs:
                row = run.epoch(task)
                shown = dict(distiller.diagnostics())
                row |= validate(run.deployed()) if validate else {}
                run.state.history.append(row)
                run.state.diagnostics.extend([shown] if shown else [])
                checkpoint.save(settings.resume, run.state.epoch, *pack(run.state))
        return run.result()


class _Run:
    """The moving parts of one fit."""

    def __init__(
        self,
        student: Side,
        teacher: Side | None,
        distiller: Teaching,
        data: TrainingData,
        settings: Settings,
        stack: ExitStack,
    ) -> None:
        self.data, self.settings, self.distiller = data, settings, distiller
        self.steps = count(len(data.labels), settings.fit.batch_size)
        if not self.steps:
            raise RecipeError(settings.where, f"{len(data.labels)} training images", "at least 2")
        self.network = _placed(student.network, settings.device)
        self.shown = copy.deepcopy(self.network)  # taps hang on the trained one; this one is validated and given back
        self.student = stack.enter_context(_tapped(student, self.network))
        self.teacher: nn.Module | None = None
        original = None
        if teacher is not None:
            original = teacher.network.to(settings.device).eval().requires_grad_(False)
            folded = _placed(fold_batchnorm(original), settings.device)
            self.teacher = stack.enter_context(_tapped(teacher, folded)).eval()
        random = seeding.generator(settings.seed, "method")
        self._set_up(original, random)
        self.state = self._fresh_state(random)
        self.fast_student: Callable[..., Any] = self.student
        self.fast_teacher: Callable[..., Any] | None = self.teacher
        if settings.compile:
            self.fast_student = compiling.compiled_student(self.student)
            self.fast_teacher = None if self.teacher is None else compiling.compiled_teacher(self.teacher)
        self.warm = False

    def _set_up(self, teacher: nn.Module | None, random: torch.Generator) -> None:
        images = self.data.images[:EXAMPLES].to(self.settings.device).permute(0, 3, 1, 2).float() / 255
        self.student.eval()
        with torch.no_grad():
            shown = Outputs(*self.student(images))
            seen = None if self.teacher is None else Outputs(*self.teacher(images))
        self.student.train()
        context = Context(self.network, teacher, shown, seen, self.data.labels, self.settings.classes, random)
        self.distiller.setup(context)
        if isinstance(self.distiller, nn.Module):
            self.distiller.to(self.settings.device).train()

    def _fresh_state(self, random: torch.Generator) -> State:
        fit = self.settings.fit
        return State(
            self.network,
            self.distiller if isinstance(self.distiller, nn.Module) else None,
            optimizer.build(fit, self.network, self.distiller, self.settings.device),
            random,
            torch.amp.GradScaler(self.settings.device, enabled=self.settings.precision == "fp16"),
            Average(self.network, fit.ema) if fit.ema else None,
        )

    def epoch(self, task: Task) -> dict[str, Any]:
        """Train one epoch; gives its history row."""
        settings, done, size = self.settings, self.state.epoch, self.settings.fit.batch_size
        meter = Meter(settings.where, done + 1, settings.device)
        torch.manual_seed(seeding.derive(settings.seed, "network", done))  # dropout inside networks
        rate, timed = 0.0, 0
        start = since = time.perf_counter()
        for step, batch in enumerate(batches(self.data, size, settings.seed, done, settings.device)):
            rate = optimizer.set_rate(self.state.optimizer, schedule.factor(settings.fit, done + 1, step, self.steps))
            meter.add(self.step(batch, done * self.steps + step), len(batch.labels))
            task.advance(len(batch.labels), epoch=f"{done + 1}/{settings.fit.epochs}", **meter.means(), **self._val())
            timed += len(batch.labels)
            if not self.warm and self.steps > 1:  # the first step compiles
                self.warm, since, timed = True, time.perf_counter(), 0
        meter.read()
        end = time.perf_counter()
        figures = {"train_seconds": end - start, "images_per_second": timed / (end - since)}
        return {"epoch": done + 1, "lr": rate, **meter.means(), **figures}

    def step(self, batch: Batch, number: int) -> Mapping[str, Tensor]:
        """One optimizer step; gives the loss terms."""
        fit, state = self.settings.fit, self.state
        progress = Progress(number // self.steps, number, number / (self.steps * fit.epochs), state.random)
        student, teacher = self._forward(batch)
        terms = self.distiller(
            student, teacher, _smoothed(batch.labels, fit.label_smoothing, self.settings.classes), progress
        )
        state.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(state.scaler.scale(torch.stack(list(terms.values())).sum()))
        self.distiller.after_backward(progress)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        if state.average is not None:
            state.average.update(self.network)
        return terms

    def _forward(self, batch: Batch) -> tuple[Outputs, Outputs | None]:
        # A trailing smaller batch runs eager: compiling a second shape costs more than it saves.
        whole = len(batch.labels) == self.settings.fit.batch_size
        student, teacher = (self.fast_student, self.fast_teacher) if whole else (self.student, self.teacher)
        seen = None
        with autocast(self.settings):
            if teacher is not None:
                with torch.no_grad():
                    seen = _outputs(teacher(batch.images), batch.index)
            return _outputs(student(batch.images), batch.index), seen

    def deployed(self) -> nn.Module:
        """The network that would be shipped now, in eval mode, without taps."""
        state = self.network.state_dict() if self.state.average is None else self.state.average.state
        self.shown.load_state_dict(state)
        return self.distiller.deploy(self.shown).eval()

    def result(self) -> FitResult:
        """What the finished fit gives."""
        history = self.state.history
        seconds = sum(row["train_seconds"] for row in history)
        speed = len(history) / sum(1 / row["images_per_second"] for row in history)
        network = self.deployed().to("cpu")
        return FitResult(network, history, self.state.diagnostics, seconds, speed, self.settings.compile)

    def _val(self) -> dict[str, float]:
        last = self.state.history[-1] if self.state.history else {}
        return {name: value for name, value in last.items() if name.startswith("val_")}


def _placed(network: nn.Module, device: str) -> nn.Module:
    network.to(device)
    network.to(memory_format=torch.channels_last)
    return network


def _tapped(side: Side, network: nn.Module) -> AbstractContextManager[Tapped]:
    return tapped(network, side.points, side.wanted, side.mean, side.std)


def _outputs(given: tuple[Tensor, dict[str, Tensor]], index: Tensor) -> Outputs:
    """In float32: distances and softmaxes of a method underflow in half precision."""
    logits, taps = given
    return Outputs(logits.float(), {key: tap.float() for key, tap in taps.items()}, index)


def _smoothed(labels: Tensor, amount: float, classes: int) -> Tensor:
    """Labels [B] as they are, or as probabilities [B, classes] when smoothed (Szegedy et al. 2016, section 7)."""
    if not amount:
        return labels
    return F.one_hot(labels, classes).float() * (1 - amount) + amount / classes
