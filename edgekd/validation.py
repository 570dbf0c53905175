"""The static part of a recipe's validation: every name and argument, without importing a plugin or building a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekd import devices, methods, profiles, registry
from edgekd.errors import RecipeError, nearest
from edgekd.recipe import Distill, Recipe
from edgekd.targets import resolve_targets, with_sources

QAT_STARTS = "ptq"  # the quantizer whose file says where quantization-aware training rounds, and gives its first ranges


def check(recipe: Recipe) -> None:
    """Raise what is wrong with a recipe and can be known without torch.

    Raises:
        RecipeError: See `plan`.
    """
    from edgekd.data.base import check_augment, check_resize

    registry.check("data", recipe.data.use, recipe.data.args, "data")
    if recipe.data.augment is not None:
        check_augment(tuple(recipe.data.augment))
    check_resize(recipe.data.size, recipe.data.resize)
    registry.check("quantizers", recipe.quantize.use, recipe.quantize.args, "quantize")
    _check_student(recipe)
    _check_qat(recipe)
    if recipe.distill is not None:
        _check_distill(recipe, recipe.distill)
    if recipe.teacher is not None:
        _check_normalize(recipe.teacher.normalize, "teacher")
    resolve_targets(recipe.export, "export", recipe)
    for name in devices.split(recipe.bench.device):
        kinds = devices.possible(name)
        for kind in kinds:
            registry.find("transport", kind.transport, f"device {kind.name}: transport")
        known = list(dict.fromkeys(runtime for kind in kinds for runtime in kind.runtimes))
        if recipe.bench.runtime not in (None, *known):
            found = f"{recipe.bench.runtime!r} is no runtime of device {name}"
            raise RecipeError("bench.runtime", found, ", ".join(known), f"--set bench.runtime={known[0]}")


def reachable(recipe: Recipe, targets: list[profiles.Target], asked: bool) -> list[profiles.Target]:
    """The targets that a student can become: all, but those of its own scheme alone when it is quantized already.

    Raises:
        RecipeError: None of them, or one that was asked for, can be made: of another scheme than a quantized file's, or from a
            PyTorch program where the student is an ONNX file.
    """
    if recipe.student.onnx is not None:
        torch_only = [target.name for target in targets if "program" in {t.made_from for t in with_sources([target])}]
        if torch_only and (asked or len(torch_only) == len(targets)):
            found = f"{', '.join(torch_only)}: made from a PyTorch network, and the student is an ONNX file"
            hint = "--format onnx-int8, or student.model with a checkpoint"
            raise RecipeError("--format" if asked else "export", found, "a target that is made from ONNX", hint)
        targets = [target for target in targets if target.name not in torch_only]
    scheme = recipe.student.scheme
    if scheme is None:
        return targets
    others = [target.name for target in targets if target.scheme != scheme]
    if others and (asked or len(others) == len(targets)):
        fitting = [target.name for target in profiles.targets().values() if target.scheme == scheme]
        raise RecipeError(
            "--format" if asked else "export",
            f"{', '.join(others)}: cannot be made from a file that is quantized already",
            f"targets of scheme {scheme}",
            "".join(f" --format {name}" for name in fitting).strip() or "another student.scheme",
        )
    return [target for target in targets if target.scheme == scheme]


def needs_teacher(distill: Distill) -> bool:
    """Whether the method learns from a teacher."""
    return methods.needs_teacher(distill.use, distill.args)


def beside_qat(args: Mapping[str, Any]) -> list[str]:
    """The arguments of post-training quantization that change what the network would be trained for."""
    return [name for name, value in args.items() if name != "calibrate" and value not in (False, "int8")]


def _check_student(recipe: Recipe) -> None:
    student = recipe.student
    if student.imported and recipe.distill is not None:
        raise RecipeError(
            "distill", "stands beside a student that is imported", "no distill section", "remove it, or give `fit`"
        )
    if not student.imported and recipe.distill is None:
        raise RecipeError(
            "distill", "is missing", "a method", "distill: {use: kd}, or {use: ce} to learn from labels alone"
        )
    if student.normalize is not None:
        _check_normalize(student.normalize, "student")


def _check_qat(recipe: Recipe) -> None:
    if recipe.qat is None:
        return
    if recipe.student.onnx is not None:
        raise RecipeError("qat", "stands beside student.onnx, which cannot be trained on", "a network", "remove qat")
    registry.check("quantizers", QAT_STARTS, {"calibrate": recipe.qat.calibrate}, "qat")
    if recipe.qat.calibrate == "auto":
        found = "auto, which chooses among files, and none is made here"
        raise RecipeError("qat.calibrate", found, "one calibrator", "--set qat.calibrate=mse")
    quantize = recipe.quantize
    if quantize.use != QAT_STARTS:
        found = f"{quantize.use} beside qat, whose ranges it has no use for"
        raise RecipeError("quantize.use", found, QAT_STARTS, f"--set quantize.use={QAT_STARTS}, or remove qat")
    others = beside_qat(quantize.args)
    if others:
        found = f"{quantize.args[others[0]]} beside qat: the network is trained for the file as it is without"
        raise RecipeError(f"quantize.{others[0]}", found, "left out", f"remove {others[0]}, or qat")


def _check_distill(recipe: Recipe, distill: Distill) -> None:
    plugin = registry.find("distillers", distill.use, "distill.use")
    registry.check("distillers", distill.use, distill.args, "distill")
    if needs_teacher(distill) and recipe.teacher is None:
        raise RecipeError(
            "teacher",
            f"is missing, and distill.use: {plugin.name} needs one",
            "a teacher section",
            "distill: {use: ce}",
        )
    if distill.cached_views is not None and methods.stored(distill.use, distill.args) is None:
        known = registry.plugins("distillers")
        able = [name for name in known if known[name].attributes.get("cached") is not None]
        raise RecipeError(
            "distill.cached_views",
            f"{distill.cached_views}, and distill.use: {plugin.name} does not learn from a teacher's stored answers",
            "no cached_views, or one of: " + ", ".join(able),
            "remove cached_views",
        )


def _check_normalize(name: str, section: str) -> None:
    from edgekd.data.normalize import NAMED, UNCHANGED

    known = ["dataset", *NAMED, *UNCHANGED]
    if name not in known:
        raise RecipeError(f"{section}.normalize", f"unknown name {name!r}", nearest(name, known))
