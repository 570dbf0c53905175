"""Training throughput: edgekd's loop against a plain PyTorch loop, in turn in one run, and against the arithmetic.

    python benchmarks/train_throughput.py --data-root FOLDER [--rounds 7] [--threads 2] [--output result.json]

ResNet-56 (published) teaches ResNet-20 on CIFAR-10, batch 64. The plain loop is `plain` below: torchvision transforms image
by image in 2 DataLoader workers, NCHW, eager, the teacher in eval mode under no_grad. Both see the same images; a figure is
images per second over one epoch of `--images` images with everything that the loop does in it, checkpoints included. The
floor is the loop's multiply-adds (forward 1, backward 2, teacher 1) at the rate of this machine's fastest float32 matrix kernel.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from turns import answer, contenders, rounds, serve

BATCH, TEMPERATURE, CE_WEIGHT, KD_WEIGHT = 64, 4.0, 0.1, 0.9
TEACHER_FILE = "resnet56-4bfd9763.th"
CONTENDERS = ("plain-ce", "plain-kd", "ce", "kd", "rtk", "kd-cached", "rtk-cached")
BASELINE = {"ce": "plain-ce"}  # every other one is compared with plain-kd
MATRIX, MATRIX_REPEATS = 2048, 5


def plain(kind: str, images: Any, labels: Any, threads: int) -> None:
    """The loop that most people write; `kind`: ce or kd."""
    import torch
    import torch.nn.functional as F
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset
    from torchvision import transforms

    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    change = transforms.Compose(
        [
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(mean, std),
        ]
    )

    class Pictures(Dataset[Any]):
        def __len__(self) -> int:
            return len(labels)

        def __getitem__(self, index: int) -> Any:
            return change(Image.fromarray(images[index])), int(labels[index])

    torch.set_num_threads(threads)
    student, teacher = networks()
    student.train()
    teacher.eval()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    loader = DataLoader(Pictures(), batch_size=BATCH, shuffle=True, num_workers=2, persistent_workers=True)

    def epoch() -> float:
        start = time.perf_counter()
        for given, target in loader:
            logits = student(given)
            loss = F.cross_entropy(logits, target)
            if kind == "kd":
                with torch.no_grad():
                    guide = teacher(given)
                told = F.log_softmax(logits / TEMPERATURE, dim=1)
                wanted = F.softmax(guide / TEMPERATURE, dim=1)
                soft = F.kl_div(told, wanted, reduction="batchmean") * TEMPERATURE**2
                loss = CE_WEIGHT * loss + KD_WEIGHT * soft
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return len(labels) / (time.perf_counter() - start)

    epoch()  # warm-up: workers start, memory is taken
    serve(epoch)


def networks() -> tuple[Any, Any]:
    """(student, teacher); the teacher without its weights, which cost no time to multiply by."""
    from edgekd import models

    return models.build("resnet20", classes=10), models.build("resnet56_a", classes=10)


def ours(use: str, prepared: dict[str, Any], threads: int) -> None:
    """edgekd's own loop, compiled; between two epochs, where it validates, it waits for its turn."""
    from dataclasses import replace

    from edgekd import models, registry
    from edgekd.artifact import read
    from edgekd.console import Console
    from edgekd.fit import cached
    from edgekd.fit.loop import fit
    from edgekd.fit.request import Settings, Side
    from edgekd.params import Roles
    from edgekd.recipe import Fit
    from edgekd.stages import evaluate

    method, _, mode = use.partition("-")
    data = evaluate.open_data(read(Path(prepared["data"])), Roles(train=prepared["images"]))
    training = data.training(None)
    if mode == "cached":
        training = replace(training, views=cached.open_views(Path(prepared["views"]), 0))
    network, guide = networks()
    points, seen = models.taps("resnet20", network), models.taps("resnet56_a", guide)
    distiller = registry.construct("distillers", method, {})
    wanted, read_of_teacher = distiller.wanted(list(points), list(seen))
    normal = data.normal("dataset")
    side = Side(network, points, wanted, *normal)
    teacher = Side(guide, seen, read_of_teacher, *normal) if distiller.needs_teacher else None
    chosen = Fit(epochs=10_000, batch_size=BATCH, compile=True)
    turns = Turns(len(training.labels))
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings("student", chosen, 0, data.classes, "cpu", "fp32", True, threads, Path(folder))
        fit(side, teacher, distiller, training, settings, Console(quiet=True), turns)


class Turns:
    """A `validate` that hands in the figure of the epoch before it and waits for the next turn."""

    def __init__(self, images: int) -> None:
        self.images, self.begun, self.epochs = images, 0.0, 0

    def __call__(self, network: Any) -> dict[str, float]:
        """Called by the loop after each epoch; the first one has compiled, the second has warmed up."""
        self.epochs += 1
        if self.epochs > 2:
            answer({"figure": self.images / (time.perf_counter() - self.begun)})
        elif self.epochs == 2:
            answer({"ready": True})
        if self.epochs > 1 and not sys.stdin.readline():
            os._exit(0)  # the driver is done; there is nothing to keep
        self.begun = time.perf_counter()
        return {}


def matrix(threads: int) -> None:
    """Multiply-adds per second of this machine's faster float32 matrix kernel: a large product, or a convolution, which
    is one to oneDNN. Which is faster hangs on the libraries behind the two.
    """
    import torch

    from edgekd.fit.estimate import convolution_rate

    torch.set_num_threads(threads)
    a, b = torch.randn(MATRIX, MATRIX), torch.randn(MATRIX, MATRIX)

    def once() -> float:
        taken = []
        for _ in range(MATRIX_REPEATS):
            start = time.perf_counter()
            torch.mm(a, b)
            taken.append(time.perf_counter() - start)
        return max(MATRIX**3 / min(taken), convolution_rate(threads))

    once()
    serve(once)


def prepare(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Make the data, the teacher and one cached view of each image, as edgekd's chain makes them."""
    from edgekd.console import Console
    from edgekd.keys import Settings
    from edgekd.pipeline import run, steps_of
    from edgekd.recipe import from_dict

    recipe = from_dict(
        {
            "name": "throughput",
            "data": {"use": "cifar10", "train": args.images},
            "teacher": {"model": "resnet56_a", "checkpoint": TEACHER_FILE, "normalize": "imagenet"},
            "student": {"model": "resnet20", "fit": {"batch_size": BATCH, "compile": False}},
            "distill": {"use": "rtk", "cached_views": 1},
        },
        "train_throughput",
    )
    steps = [step for step in steps_of(recipe, until="student") if step.name != "student"]
    settings = Settings(folder, tuple(args.data_root), None, Console(), args.threads)
    made = {outcome.step.name: outcome.artifact for outcome in run(recipe, steps, settings)}
    places = {name: str(artifact.path) for name, artifact in made.items() if artifact is not None}
    return {**places, "images": args.images}


def multiply_adds() -> dict[str, int]:
    """Of one training image, by contender."""
    from edgekd.models.count import count

    student, teacher = (count(network, 3, (32, 32))[1] for network in networks())
    alone = 3 * student
    return {name: alone + (0 if name.endswith("ce") or "cached" in name else teacher) for name in CONTENDERS}


def table(figures: dict[str, list[float]]) -> Iterator[str]:
    """The result as Markdown: medians, ratios of the same round, and how near the floor."""
    rate = statistics.median(figures["matrix"])
    yield "| loop | img/s, median [min, max] | ratio to plain, median [min, max] | of the floor |"
    yield "|---|---:|---:|---:|"
    for name, work in multiply_adds().items():
        if name not in figures:
            continue
        base = figures[BASELINE.get(name, "plain-kd")]
        ratios = [ours / theirs for ours, theirs in zip(figures[name], base, strict=True)]
        share = 100 * statistics.median(figures[name]) * work / rate
        shown = "-" if name.startswith("plain") else f"{_spread(ratios, '.2f')} x {BASELINE.get(name, 'plain-kd')}"
        yield f"| `{name}` | {_spread(figures[name], '.0f')} | {shown} | {share:.0f} % |"
    if {"rtk", "kd"} <= set(figures):
        steps = [kd / rtk for kd, rtk in zip(figures["kd"], figures["rtk"], strict=True)]
        yield ""
        yield f"RTK's step takes {_spread(steps, '.2f')} of KD's. Matrix rate: {rate / 1e9:.0f} G multiply-adds/s."


def _spread(values: list[float], form: str) -> str:
    return f"{statistics.median(values):{form}} [{min(values):{form}}, {max(values):{form}}]"


def main() -> None:
    """Drive the contenders, or be one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data-root", type=Path, action="append", default=[], help="holds CIFAR-10 and the teacher")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=2560, help="images of one epoch, a multiple of 64")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of torch; DataLoader workers: 2")
    parser.add_argument("--loops", default=",".join(CONTENDERS), help="which of them, by comma")
    parser.add_argument("--output", type=Path, help="write every figure as JSON")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    parser.add_argument("--prepared", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contender:
        return _contend(args)
    args.data_root += [Path(root) for root in os.environ.get("EDGEKD_DATA", "").split(os.pathsep) if root]
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "log").open("wb") as log:
        prepared = json.dumps(prepare(args, Path(folder) / "workspace"))
        common = [sys.executable, __file__, "--threads", str(args.threads), "--prepared", prepared, "--contender"]
        names = ["matrix", *dict.fromkeys(["plain-kd", *args.loops.split(",")])]
        with contenders({name: [*common, name] for name in names}, log) as children:
            figures = rounds(children, args.rounds)
    from edgekd.runner.state import machine

    print("\n".join(table(figures)))
    if args.output:
        facts = {"machine": machine(), "threads": args.threads, "images": args.images, "figures": figures}
        args.output.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def _contend(args: argparse.Namespace) -> None:
    if args.contender == "matrix":
        return matrix(args.threads)
    prepared = json.loads(args.prepared)
    if not args.contender.startswith("plain-"):
        return ours(args.contender, prepared, args.threads)
    import numpy as np

    folder, n = Path(prepared["data"]), prepared["images"]
    images = np.load(folder / "images_train.npy", mmap_mode="r")[:n]
    plain(args.contender.removeprefix("plain-"), images, np.load(folder / "labels_train.npy")[:n], args.threads)


if __name__ == "__main__":
    main()
