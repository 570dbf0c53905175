"""THE training loop: teachers (under the distiller that uses labels alone) and students go through it. No method is named in it."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from edgekd.augment import Drawn, apply
from edgekd.console import Console, Task
from edgekd.errors import RecipeError
from edgekd.fit import best, checkpoint, compiling, optimizer, schedule, seeding
from edgekd.fit.batches import Batch, TrainingData, batches, count
from edgekd.fit.distributed import FEWEST
from edgekd.fit.ema import Average
from edgekd.fit.lesson import averaged, synchronised
from edgekd.fit.memory import memory_errors
from edgekd.fit.meter import Meter
from edgekd.fit.process import autocast, own_torch
from edgekd.fit.protocol import Context, Paced, Progress, Teaching
from edgekd.fit.request import FitResult, Settings, Side, Validate
from edgekd.fit.state import State, pack, unpack
from edgekd.fit.targets import class_weights, targets
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
        validate: Called after each epoch with the deployable network; what it gives goes into the history row. Of several
            processes rank 0 alone validates and writes checkpoints.

    Raises:
        RecipeError: Fewer than two training images for a process; the best epoch to keep and nothing to judge it by.
        StageFailed: A loss is NaN or infinite, memory runs out, a process dies, or a checkpoint cannot be written.
        IntegrityError: There are checkpoints and none can be used.
    """
    group = settings.group
    if validate is None:
        best.refuse(settings.fit, f"{settings.where}.fit")
    with own_torch(settings), group.joined(settings.device), memory_errors(settings), ExitStack() as stack:
        run = _Run(student, teacher, distiller, data, settings, stack)
        saved = group.shared(lambda: checkpoint.load(settings.resume, console))
        if saved is not None:
            unpack(run.state, *saved, str(settings.resume))
            console.log(f"{settings.where}: going on after epoch {run.state.epoch} of {settings.fit.epochs}")
        left = len(data.labels) - run.steps * settings.fit.batch_size
        if group.world > 1 and left > 0:
            console.log(f"{settings.where}: {left} images left out of each epoch: fewer than {FEWEST} for a process")
        with console.task(settings.where, len(data.labels) * (settings.fit.epochs - run.state.epoch), "img") as task:
            while run.state.epoch < settings.fit.epochs:
                row = run.epoch(task)
                shown = dict(distiller.diagnostics())
                row |= validate(run.deployed()) if validate and group.leads else {}
                run.state.history.append(row)
                run.keep_best()
                run.state.diagnostics.extend([shown] if shown else [])
                if group.leads:
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
        self.data, self.settings, self.distiller, self.group = data, settings, distiller, settings.group
        self.steps = count(len(data.labels), settings.fit.batch_size, self.group.world)
        if not self.steps:
            least = FEWEST * self.group.world
            raise RecipeError(settings.where, f"{len(data.labels)} training images", f"at least {least}")
        weights = class_weights(data.labels, settings.classes, settings.fit, settings.where)
        self.weights = None if weights is None else weights.to(settings.device)
        network = _placed(student.network, settings.device)
        self.shown = copy.deepcopy(network)  # taps hang on the trained one; this one is validated and given back
        self.network = synchronised(network, self.group, settings.device)
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
        methods = [distiller] if isinstance(distiller, nn.Module) else []
        self.lesson = averaged(self._loss, self.group, self.network, *methods)
        self.warm = False

    def _set_up(self, teacher: nn.Module | None, random: torch.Generator) -> None:
        images = apply(self.data.images[:EXAMPLES], Drawn(())).to(self.settings.device)
        self.student.eval()
        with torch.no_grad():
            shown = Outputs(*self.student(images))
            seen = None if self.teacher is None else Outputs(*self.teacher(images))
        self.student.train()
        context = Context(self.network, teacher, shown, seen, self.data.labels, self.settings.classes, random)
        self.distiller.setup(context)
        if isinstance(self.distiller, nn.Module):
            synchronised(self.distiller, self.group, self.settings.device).to(self.settings.device).train()

    def _fresh_state(self, random: torch.Generator) -> State:
        fit = self.settings.fit
        return State(
            self.network,
            self.distiller if isinstance(self.distiller, nn.Module) else None,
            optimizer.build(fit, self.network, self.distiller, self.settings.device),
            random,
            torch.amp.GradScaler(self.settings.device, enabled=self.settings.precision == "fp16"),
            Average(self.network, fit.ema) if fit.ema else None,
            own=dict(self.distiller.optimizers()),
        )

    def epoch(self, task: Task) -> dict[str, Any]:
        """Train one epoch; gives its history row."""
        settings, done, size = self.settings, self.state.epoch, self.settings.fit.batch_size
        meter = Meter(settings.where, done + 1, settings.device, self.group)
        if isinstance(self.network, Paced):
            self.network.begin_epoch(done, settings.fit.epochs)
        torch.manual_seed(seeding.derive(settings.seed, "network", done, *self.group.stream))  # dropout inside networks
        if not self.group.leads:  # noise of its own, and of each epoch: it is not in the checkpoint
            self.state.random.manual_seed(seeding.derive(settings.seed, "method", done, *self.group.stream))
        rate, timed = 0.0, 0
        start = since = time.perf_counter()
        given = batches(self.data, size, settings.seed, done, settings.device, self.group, self.distiller.views)
        for step, batch in enumerate(given):
            rate = optimizer.set_rate(self.state.optimizer, schedule.factor(settings.fit, done + 1, step, self.steps))
            meter.add(self.step(batch, done * self.steps + step), batch.total, self._share(batch))
            task.advance(batch.total, epoch=f"{done + 1}/{settings.fit.epochs}", **meter.means(), **self._val())
            timed += batch.total
            if not self.warm and self.steps > 1:  # the first step compiles
                self.warm, since, timed = True, time.perf_counter(), 0
        meter.read()
        end = time.perf_counter()
        self.group.require_same(settings.where, list(self.network.parameters()))
        figures = {"train_seconds": end - start, "images_per_second": timed / (end - since)}
        return {"epoch": done + 1, "lr": rate, **meter.means(), **figures}

    def step(self, batch: Batch, number: int) -> Mapping[str, Tensor]:
        """One optimizer step; gives the loss terms."""
        fit, state = self.settings.fit, self.state
        progress = Progress(number // self.steps, number, number / (self.steps * fit.epochs), state.random)
        terms = self.lesson(batch, progress)
        loss, share = torch.stack(list(terms.values())).sum(), self._share(batch)
        state.optimizer.zero_grad(set_to_none=True)
        for own in state.own.values():
            own.zero_grad(set_to_none=True)
        torch.autograd.backward(state.scaler.scale(loss if share == 1 else loss * share))
        self.distiller.after_backward(progress)
        for each in (state.optimizer, *filter(_moves, state.own.values())):
            state.scaler.step(each)
        state.scaler.update()
        if state.average is not None:
            state.average.update(self.network)
        return terms

    def _loss(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        student, teacher = self._forward(batch)
        target = targets(batch.labels, self.settings.classes, self.settings.fit.label_smoothing, self.weights)
        return dict(self.distiller(student, teacher, target, progress))

    def _share(self, batch: Batch) -> float:
        """Weight of this process's mean in the mean over the processes: 1 but for a last batch that is shared unevenly."""
        return len(batch.labels) * self.group.world / batch.total

    def _forward(self, batch: Batch) -> tuple[Outputs, Outputs | None]:
        # A trailing smaller batch runs eager: compiling a second shape costs more than it saves.
        whole = batch.total == self.settings.fit.batch_size
        student, teacher = (self.fast_student, self.fast_teacher) if whole else (self.student, self.teacher)
        seen = batch.seen
        with autocast(self.settings):
            if teacher is not None and seen is None:
                with torch.no_grad():
                    seen = _outputs(teacher, batch)
            return _outputs(student, batch), seen

    def keep_best(self) -> None:
        """Hold the weights that were just validated, where the best shall be kept and these are."""
        if self.settings.fit.keep == "best" and self.group.leads and best.is_best(self.state.history):
            self.state.best = best.copied(self._weights(), self.state.distiller)

    def deployed(self) -> nn.Module:
        """The network that would be shipped now, in eval mode, without taps."""
        self.shown.load_state_dict(self._weights())
        return self.distiller.deploy(self.shown).eval()

    def _weights(self) -> Mapping[str, Tensor]:
        return self.network.state_dict() if self.state.average is None else self.state.average.state

    def _kept(self) -> nn.Module:
        """The network to give back: as it is, or as it was in its best epoch."""
        if self.state.best is None:
            return self.deployed()
        best.put_back(self.state.best, self.shown, self.state.distiller)
        return self.distiller.deploy(self.shown).eval()

    def result(self) -> FitResult:
        """What the finished fit gives."""
        history = self.state.history
        seconds = sum(row["train_seconds"] for row in history)
        speed = len(history) / sum(1 / row["images_per_second"] for row in history)
        network = self._kept().to("cpu")
        method = self.state.distiller.parameters() if self.state.distiller is not None else ()
        own = sum(parameter.numel() for parameter in method if parameter.requires_grad)
        kept = None if self.state.best is None else best.epoch(history)
        over = {"processes": self.group.world, "batchnorm": self.group.batchnorm(self.settings.device)}
        shared = over if self.group.world > 1 else {}
        compiled = self.settings.compile
        return FitResult(network, history, self.state.diagnostics, seconds, speed, compiled, shared, own, kept)

    def _val(self) -> dict[str, float]:
        last = self.state.history[-1] if self.state.history else {}
        return {name: value for name, value in last.items() if name.startswith("val_")}


def _moves(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a parameter of it has a gradient; a scaler takes no optimizer without."""
    return any(p.grad is not None for group in optimizer.param_groups for p in group["params"])


def _placed(network: nn.Module, device: str) -> nn.Module:
    network.to(device)
    network.to(memory_format=torch.channels_last)
    return network


def _tapped(side: Side, network: nn.Module) -> AbstractContextManager[Tapped]:
    return tapped(network, side.points, side.wanted, side.mean, side.std)


def _outputs(network: Callable[..., Any], batch: Batch) -> Outputs:
    """Of every view of the images, each in a pass of its own as BatchNorm's statistics want it, one behind the other.

    In float32: distances and softmaxes of a method underflow in half precision.
    """
    given = [network(images) for images in batch.views]
    logits = _joined([logits for logits, _ in given])
    taps = {key: _joined([taps[key] for _, taps in given]) for key in given[0][1]}
    return Outputs(logits, taps, _joined([batch.index] * len(given)))


def _joined(parts: Sequence[Tensor]) -> Tensor:
    whole = parts[0] if len(parts) == 1 else torch.cat(list(parts))
    return whole.float() if whole.is_floating_point() else whole
