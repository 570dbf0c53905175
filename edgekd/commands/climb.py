"""Runs every form of one network on the same images and climbs the parity ladder; knows nothing of workspaces."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgekd import onnxfile, onnxrun
from edgekd.analysis import facing, ladder
from edgekd.analysis.facing import Preprocessing
from edgekd.analysis.ladder import INPUT, LABELS, Answers, Rung
from edgekd.commands.rungs import TORCH, File, Missing, Parts, Stored, Twin
from edgekd.commands.tensors import Tensors
from edgekd.errors import CheckFailed, IntegrityError

if TYPE_CHECKING:
    from torch import Tensor, nn

Logits = npt.NDArray[np.floating]
BATCH = 256


def climb(parts: Parts, *, tensors: bool = False) -> list[Rung]:
    """Every rung's verdict, `labels` and `input` first.

    Args:
        parts: What to run.
        tensors: Compare tensor by tensor on every rung, not only where something was quantized or fails.

    Raises:
        IntegrityError: A file cannot be loaded.
        StageFailed: A file takes other images.
        UsageError: Tensors are to be compared of files that share none.
    """
    return _Climb(parts, tensors).rungs()


class _Climb:
    """One climb: the answers of each rung so far."""

    def __init__(self, parts: Parts, every_tensor: bool) -> None:
        self.parts, self.every_tensor = parts, every_tensor
        self.right = Preprocessing(*parts.norm)
        self.files = {item.name: item for item in parts.rungs if isinstance(item, File)}
        self.answers: dict[str, Answers] = {}
        self.networks: dict[str, nn.Module] = {}
        if parts.network is not None:
            self.networks[TORCH] = parts.network
            self.answers[TORCH] = Answers(TORCH, self._torch[0], note="run now")
        self.tensors = Tensors(parts, self.files, self.given)

    def rungs(self) -> list[Rung]:
        """See `climb`."""
        found = [self._rung(item) for item in self.parts.rungs]
        first = [ladder.origin_rung(self.answers[TORCH], self.parts.labels)] if TORCH in self.answers else []
        return [self._labels(), self._input(), *first, *found]

    @cached_property
    def _torch(self) -> tuple[Logits, npt.NDArray[np.float32]]:
        """(logits, what the network was fed with) of all images, by the path that training evaluates with."""
        from edgekd.fit.evaluate import evaluate
        from edgekd.fit.process import own_threads

        network, fed = self.parts.network, list[npt.NDArray[np.float32]]()
        assert network is not None

        def look(_: object, given: tuple[Tensor]) -> None:
            fed.append(given[0].numpy().copy())

        hook = network.register_forward_pre_hook(look)
        try:
            with own_threads(self.parts.threads):
                logits = evaluate(network, self.parts.images, np.arange(len(self.parts.images)), *self.parts.norm)
        finally:
            hook.remove()
        return logits, np.ascontiguousarray(np.concatenate(fed))

    @cached_property
    def given(self) -> npt.NDArray[np.float32]:
        """[n, C, H, W] as the network sees the images in training, without augmentation."""
        return self.right(self.parts.images) if self.parts.network is None else self._torch[1]

    @property
    def origin(self) -> Answers:
        """The first form's answers."""
        return next(iter(self.answers.values()))

    def _answer(self, name: str, given: npt.NDArray[np.float32]) -> Logits:
        """What a form answers to normalised images."""
        starts = range(0, len(given), BATCH)
        if name in self.networks:
            import torch

            network = self.networks[name]
            with torch.no_grad():
                parts = [network(torch.from_numpy(given[at : at + BATCH])).numpy() for at in starts]
        else:
            opened = onnxrun.session(self.files[name].path, self.parts.threads)
            parts = [onnxrun.infer(opened, given[at : at + BATCH]) for at in starts]
        return np.concatenate(parts)

    def _rung(self, item: File | Stored | Twin | Missing) -> Rung:
        if isinstance(item, Missing):
            return Rung(item.name, "not run", item.before, item.why)
        if isinstance(item, Stored):
            return self._stored(item)
        if isinstance(item, Twin):
            self.networks[item.name] = item.build()
        bounds = item.bounds if isinstance(item, File) else {}
        logits, trained = self._answer(item.name, self.given), self._trained(item)
        found = Answers(item.name, logits, item.scheme, bounds, note="run now", trained=trained)
        self.answers[item.name] = found
        if not item.before:
            return ladder.origin_rung(found, self.parts.labels)
        kept = item.before if item.before in self.answers or isinstance(item, Twin) else item.source
        before = self.answers[kept]
        rung = ladder.rung(found, before, self.origin, self.parts.labels)
        if rung.state == "fails":
            rung = self._at_an_end(rung, item.name, before, found)
        if rung.blame or isinstance(item, Twin):
            return rung
        return self.tensors.compared(rung, item, before, every=self.every_tensor)

    def _trained(self, item: File | Stored | Twin) -> bool:
        """Whether it is the network that was trained rounded, or was made of it."""
        return item.scheme == "fake_quant" or (item.before in self.answers and self.answers[item.before].trained)

    def _stored(self, item: Stored) -> Rung:
        """Answers that were kept: held against those of the rung before for the same images."""
        place = {int(row): at for at, row in enumerate(item.rows)}
        here = np.array([at for at, row in enumerate(self.parts.rows) if int(row) in place], dtype=np.int64)
        if not len(here):
            return Rung(item.name, "not run", item.before, f"{item.note}: kept of other images")
        kept = item.logits[[place[int(self.parts.rows[at])] for at in here]]
        logits, trained = kept.astype(np.float32), self._trained(item)
        found = Answers(item.name, logits, item.scheme, item.bounds, True, item.note, trained)
        before, origin = (
            replace(answers, logits=answers.logits[here]) for answers in (self.answers[item.before], self.origin)
        )
        rung = ladder.rung(found, before, origin, self.parts.labels[here])
        if len(here) == len(self.parts.rows):
            self.answers[item.name] = found
        return self._at_an_end(rung, item.before, before, found, here) if rung.state == "fails" else rung

    def _at_an_end(
        self, rung: Rung, form: str, before: Answers, found: Answers, here: npt.NDArray[np.int64] | None = None
    ) -> Rung:
        """A failed rung whose network is right and whose input or order of classes is not: who is to blame.

        Args:
            rung: It.
            form: The form that is fed otherwise: this one itself, or, of kept answers, the one that was run elsewhere.
            before: What should have come out.
            found: What did.
            here: Which images; None: all.
        """
        images = self.parts.images if here is None else self.parts.images[here]

        def same(logits: Logits) -> bool:
            if form == found.name:
                return _holds(replace(found, logits=logits), before)
            return _holds(found, replace(before, logits=logits))

        words = facing.mistaken(self.right, lambda wrong: self._answer(form, wrong(images)), same)
        if words:
            said = f"it answers as {before.name} does" if form == found.name else f"{form} answers so"
            return replace(rung, blame=INPUT, failures=(*rung.failures, f"{said} when it is fed with {words}"))
        order = facing.reordered(before.logits, found.logits)
        if order is not None and _holds(replace(found, logits=found.logits[:, order]), before):
            at = int(np.flatnonzero(order != np.arange(len(order)))[0])
            words = f"the same answers in another order of classes: its output {order[at]} is class {at}"
            return replace(rung, blame=LABELS, failures=(*rung.failures, words))
        return rung

    def _labels(self) -> Rung:
        """Class names and their order, as every file says, and whether answers fit labels at all."""
        parts, answers = self.parts, self.origin.logits.argmax(axis=1)
        lines = [" ".join(name.split()) for name in parts.classes]
        told = {**parts.names, **dict(_names(self.files.values()))}
        faults = []
        for place, names in told.items():
            wanted = lines if place.endswith("labels.txt") else parts.classes
            fault = facing.label_fault(place, names, wanted)
            if fault and len(names) == len(wanted):
                by_name = np.asarray(names)[answers] == np.asarray(wanted)[parts.labels]
                fault += f"; by its names {100 * by_name.mean():.1f} % are right"
            faults.append(fault)
        told_by = parts.rows >= 0  # the golden images are of another split
        faults.append(facing.turned_labels(answers[told_by], parts.labels[told_by], parts.classes))
        return self._end(LABELS, faults, f"{len(told)} lists of class names", {})

    def _input(self) -> Rung:
        """What every file tells a runtime to feed, carried out, against what training feeds."""
        told = [(place, Preprocessing(*norm)) for place, norm in self.parts.norms.items()]
        faults, wrong = [], None
        for file in self.files.values():
            if file.facts is not None:
                told.append((f"{file.name}: model.json", facing.beside(file.facts)))
            try:
                place = f"{file.name}: {file.path.name}"
                told.append((place, facing.inside(onnxfile.metadata(onnxfile.load(file.path)), place)))
            except IntegrityError as error:
                faults.append(f"{error.where}: {error.found}")
        for place, one in told:
            fault = facing.input_fault(place, one, self.given, self.parts.images)
            faults.append(fault)
            wrong = one if fault and wrong is None else wrong
        fed = (wrong or self.right)(self.parts.images)
        figures = {}
        if fed.shape == self.given.shape:
            figures = ladder.figures(self.origin.logits, self._answer(self.origin.name, fed))
        return self._end(INPUT, faults, f"{len(told)} statements", figures)

    def _end(self, name: str, faults: list[str], note: str, figures: dict[str, int | float]) -> Rung:
        failures = tuple(fault for fault in faults if fault)
        share = ladder.top1(self.origin.logits, self.parts.labels)
        state: ladder.State = "fails" if failures else "ok"
        expected = "what the network was trained with"
        return Rung(name, state, "data", note, len(self.parts.labels), share, figures, {}, expected, failures)


def _holds(found: Answers, before: Answers) -> bool:
    try:
        return ladder.verdict(found, before).passed
    except CheckFailed:
        return False


def _names(files: Iterable[File]) -> Iterator[tuple[str, list[str]]]:
    """(who says so, class names) inside and beside each file."""
    for file in files:
        own = onnxfile.metadata(onnxfile.load(file.path))
        if "classes" in own:
            yield f"{file.name}: {file.path.name}", list(json.loads(own["classes"]))
        if file.facts is not None:
            yield f"{file.name}: model.json", list(file.facts["classes"])
        if file.labels is not None:
            yield f"{file.name}: labels.txt", list(file.labels)
