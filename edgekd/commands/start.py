"""`--from model.onnx`: a chain that begins at an ONNX file of the user's instead of at an artifact."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from edgekd import profiles
from edgekd import recipe as recipes
from edgekd.commands import current
from edgekd.commands.find_recipe import find_recipe
from edgekd.console import Console
from edgekd.data.checkpoint_file import find_checkpoint
from edgekd.errors import RecipeError, UsageError
from edgekd.recipe import Recipe
from edgekd.store import Store
from edgekd.targets import resolve_targets

SUFFIX = ".onnx"
CHECKPOINTS = (".pt", ".pth", ".th", ".safetensors", ".ckpt")
MOST_NAME = 80  # characters of a recipe's name
MARK = "-from-"  # between the recipe's name and the file's in the name of the run: the recipe's own run stays as it is


def is_file(reference: str | None, workspace: Path) -> bool:
    """Whether `--from` names an ONNX file, and no artifact or tag.

    Raises:
        UsageError: It names a checkpoint, which says nothing of its network.
    """
    if reference is None:
        return False
    path = Path(reference)
    if path.suffix in CHECKPOINTS and path.is_file():
        raise UsageError(
            f"--from {reference}",
            "is a checkpoint: weights without their network",
            "an ONNX file, or a recipe with student: {model: NAME, checkpoint: FILE}",
            f"--set student.model=NAME --set student.checkpoint={reference}",
        )
    return path.suffix == SUFFIX and (path.is_file() or os.sep in reference or reference not in Store(workspace).tags())


def choose(
    reference: str,
    command: str,
    named: str | None,
    workspace: Path,
    roots: Sequence[Path],
    overrides: Sequence[str],
    targets: Sequence[str] | None,
    console: Console,
) -> tuple[Recipe, Path | None]:
    """The recipe of `--recipe`, else the current run's, with the file as its student; and the recipe's folder.

    Args:
        reference: The file as typed.
        command: The command as typed.
        named: `--recipe`.
        workspace: Where the current run is looked up.
        roots: Where the file is looked up, too.
        overrides: `--set`.
        targets: `--format`.
        console: Told what was found.

    Raises:
        UsageError: There is no recipe, or the command ends before there is a graph.
        RecipeError: No such file, or a quantized one for which no target stands.
        IntegrityError: It is no ONNX.
    """
    if command in ("train", "distill"):
        found = f"is a finished network: nothing is left to {command}"
        hint = f"edgekd quantize --from {shlex.quote(reference)}{current.option(workspace)}"
        raise UsageError(f"--from {reference}", found, "quantize, export, bench or run", hint)
    run = current.head(workspace) if named is None else None
    if run is None and named is None:
        raise UsageError(
            f"--from {reference}",
            "nothing says which data to calibrate on and to measure accuracy with",
            "a recipe, for its data, targets and device; of its student nothing is used",
            f"edgekd {command} --from {shlex.quote(reference)} --recipe RECIPE{current.option(workspace)}",
        )
    folder = run.folder if run is not None else find_recipe(str(named)).parent

    def load(more: Sequence[str]) -> Recipe:
        if run is not None:
            return recipes.from_dict(run.recipe, f"recipe {run.name}", [*more, *overrides])
        return recipes.load(find_recipe(str(named)), [*more, *overrides])

    path = find_checkpoint(reference, folder, roots, f"--from {reference}").absolute()
    recipe = _with_student(path, load, reference, targets, console)
    console.log(f"recipe {recipe.name}: {reference} in the place of the student (chosen with --from)")
    return recipe, folder


def _with_student(
    path: Path,
    load: Callable[[Sequence[str]], Recipe],
    reference: str,
    targets: Sequence[str] | None,
    console: Console,
) -> Recipe:
    from edgekd.onnximport import read

    origin = f"student.onnx={json.dumps(str(path), ensure_ascii=False)}"
    recipe = load([origin])
    if read.is_quantized(path):
        scheme = recipe.student.scheme or _scheme(recipe, targets, reference)
        recipe = load([origin, f"student.scheme={scheme}"])
        names = resolve_targets(recipe.export, "export", recipe) if targets is None else []
        left = [name for name in names if profiles.target(name).scheme != scheme]
        console.log(f"{path.name} is quantized: it stands for quantized/{scheme}")
        if left:
            console.log(f"left out: {', '.join(left)} (a quantized file cannot become another scheme)")
    recipe.written_at(("student", "onnx"), f"--from {reference}")
    base = recipe.name.partition(MARK)[0]
    return recipe.model_copy(update={"name": f"{base}{MARK}{_slug(path.stem)}"[:MOST_NAME]})


def _scheme(recipe: Recipe, targets: Sequence[str] | None, reference: str) -> str:
    """The one scheme that the targets name."""
    names = resolve_targets(targets or recipe.export, "--format" if targets else "export", recipe, quantized=True)
    named = {profiles.target(name).scheme for name in names} - {"none"}
    if len(named) != 1:
        able = sorted({target.scheme for target in profiles.targets().values()} - {"none"})
        raise RecipeError(
            f"--from {reference}",
            f"is quantized, and the targets {', '.join(targets or recipe.export)} stand for "
            + (f"several schemes: {', '.join(sorted(named))}" if named else "no quantized file"),
            "a target of the scheme that the file has",
            f"--set student.scheme={able[0]}" if named else "--format onnx-int8",
        )
    return named.pop()


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.") or "file"
