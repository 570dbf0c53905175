"""recipe -> steps: what the chain does, in order, and with which parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgekd import profiles, registry
from edgekd.errors import RecipeError, nearest
from edgekd.params import (
    BenchParams,
    DataParams,
    DistillParams,
    ExportParams,
    GraphParams,
    Params,
    QuantizeParams,
    Roles,
    StudentParams,
    TeacherParams,
)
from edgekd.recipe import Recipe

GOALS = ("data", "teacher", "student", "graph", "quantized", "export", "bench")


@dataclass(frozen=True)
class Step:
    """One run of a stage.

    Attributes:
        name: `student`, `quantized/u8s8`, `bench/onnx@cpu` ...
        stage: The module in `edgekd/stages/` that does it.
        params: What is in its key, as one of the models above.
        inputs: {role: step name}.
        plugin: (group, name) of the plugin whose VERSION is in the key, or None.
    """

    name: str
    stage: str
    params: Params
    inputs: dict[str, str]
    plugin: tuple[str, str] | None = None


def plan(recipe: Recipe, *, until: str = "bench", targets: Sequence[str] | None = None) -> list[Step]:
    """The steps of a recipe, upstream first, up to a goal.

    Args:
        recipe: The recipe; its plugins and their arguments are checked here.
        until: One of GOALS; what the goal does not need is left out.
        targets: Export targets instead of the recipe's own.

    Raises:
        RecipeError: Unknown plugin, argument, model, target or device; a teacher that is missing.
    """
    check(recipe)
    names = resolve_targets(targets if targets is not None else recipe.export, "--format" if targets else "export")
    steps = [_data(recipe)]
    needs_teacher = registry.find("distillers", recipe.distill.use).attributes.get("needs_teacher", True)
    if needs_teacher or until == "teacher":
        steps.append(_teacher(recipe))
    if until not in ("data", "teacher"):
        steps.append(_student(recipe, needs_teacher))
    if until in ("graph", "quantized", "export", "bench"):
        steps.append(Step("graph", "graph", GraphParams(roles=_roles(recipe)), {"data": "data", "student": "student"}))
    if until in ("quantized", "export", "bench"):
        chosen = [profiles.target(name) for name in names]
        schemes = sorted({target.scheme for target in chosen} - {"none"}) or (["u8s8"] if until == "quantized" else [])
        steps += [_quantize(recipe, scheme) for scheme in schemes]
        if until != "quantized":
            steps += [_export(target) for target in chosen]
        if until == "bench":
            steps += [_bench(recipe, target) for target in chosen]
    return steps[:1] if until == "data" else steps


def check(recipe: Recipe) -> None:
    """The static part of validation: every name and argument, without importing a plugin or building a network.

    Raises:
        RecipeError: See `plan`.
    """
    from edgekd.data.base import check_augment

    registry.check("data", recipe.data.use, recipe.data.args, "data")
    if recipe.data.augment is not None:
        check_augment(tuple(recipe.data.augment))
    plugin = registry.find("distillers", recipe.distill.use, "distill.use")
    registry.check("distillers", recipe.distill.use, recipe.distill.args, "distill")
    registry.check("quantizers", recipe.quantize.use, recipe.quantize.args, "quantize")
    if plugin.attributes.get("needs_teacher", True) and recipe.teacher is None:
        raise RecipeError(
            "teacher",
            f"is missing, and distill.use: {plugin.name} needs one",
            "a teacher section",
            "distill: {use: ce}",
        )
    if recipe.teacher is not None:
        _check_normalize(recipe.teacher.normalize)
    resolve_targets(recipe.export, "export")
    device = profiles.device(recipe.bench.device)
    if recipe.bench.runtime not in device.runtimes:
        raise RecipeError(
            "bench.runtime",
            f"{recipe.bench.runtime!r} is no runtime of device {device.name}",
            ", ".join(device.runtimes),
        )


def resolve_targets(names: Sequence[str], where: str) -> list[str]:
    """Names of shipped targets and paths of a user's own, in the order given, each once; the profiles are checked.

    Raises:
        RecipeError: No such target, exporter or argument of it; two files with one target's name.
    """
    found: dict[str, str] = {}
    for name in names:
        target = profiles.target(name, where)
        registry.find("exporters", target.exporter, f"target {target.name}: exporter")
        registry.check("exporters", target.exporter, target.args, f"target {target.name}: args")
        if found.setdefault(target.name, name) != name:
            raise RecipeError(
                where,
                f"{found[target.name]} and {name} are both target {target.name}",
                "another `name:` in one of them",
            )
    return list(found.values())


def _check_normalize(name: str) -> None:
    from edgekd.data.normalize import NAMED

    if name != "dataset" and name not in NAMED:
        raise RecipeError("teacher.normalize", f"unknown name {name!r}", nearest(name, ["dataset", *NAMED]))


def _roles(recipe: Recipe) -> Roles:
    return Roles(val=recipe.data.val, train=recipe.data.train, seed=recipe.seed)


def _augment(recipe: Recipe) -> tuple[str, ...] | None:
    return None if recipe.data.augment is None else tuple(recipe.data.augment)


def _data(recipe: Recipe) -> Step:
    data = recipe.data
    params = DataParams(
        use=data.use,
        args=registry.check("data", data.use, data.args, "data"),
        size=data.size,
        resize=data.resize,
        duplicates=data.duplicates,
    )
    return Step("data", "data", params, {}, ("data", data.use))


def _teacher(recipe: Recipe) -> Step:
    teacher = recipe.teacher
    if teacher is None:
        raise RecipeError(
            "teacher", "is missing", "a teacher section", "teacher: {model: resnet56, fit: {epochs: 240}}"
        )
    imported = teacher.checkpoint is not None
    params = TeacherParams(
        model=teacher.model,
        fit=teacher.fit,
        checkpoint=teacher.checkpoint,
        normalize=teacher.normalize,
        expect_top1=teacher.expect_top1,
        trained_on=teacher.trained_on,
        augment=None if imported else _augment(recipe),
        roles=_roles(recipe),
        seed=recipe.seed,
    )
    return Step("teacher", "train", params, {"data": "data"}, ("distillers", "ce"))


def _student(recipe: Recipe, needs_teacher: bool) -> Step:
    params = StudentParams(
        model=recipe.student.model,
        fit=recipe.student.fit,
        distill=DistillParams(
            use=recipe.distill.use,
            args=registry.check("distillers", recipe.distill.use, recipe.distill.args, "distill"),
        ),
        augment=_augment(recipe),
        roles=_roles(recipe),
        seed=recipe.seed,
    )
    inputs = {"data": "data", "teacher": "teacher"} if needs_teacher else {"data": "data"}
    return Step("student", "distill", params, inputs, ("distillers", recipe.distill.use))


def _quantize(recipe: Recipe, scheme: str) -> Step:
    quantize = recipe.quantize
    made = registry.find("quantizers", quantize.use, "quantize.use").attributes.get("schemes", (scheme,))
    if scheme not in made:
        raise RecipeError(
            "quantize.use", f"{quantize.use} does not make scheme {scheme!r} of an export target", nearest(scheme, made)
        )
    params = QuantizeParams(
        scheme=scheme,
        use=quantize.use,
        args=registry.check("quantizers", quantize.use, quantize.args, "quantize"),
        images=quantize.images,
        roles=_roles(recipe),
        seed=recipe.seed,
    )
    inputs = {"data": "data", "graph": "graph"}
    return Step(f"quantized/{scheme}", "quantize", params, inputs, ("quantizers", quantize.use))


def _export(target: profiles.Target) -> Step:
    source = "graph" if target.scheme == "none" else f"quantized/{target.scheme}"
    params = ExportParams(
        target=target.name,
        family=target.family,
        exporter=target.exporter,
        scheme=target.scheme,
        args=registry.check("exporters", target.exporter, target.args, f"target {target.name}: args"),
        parity=target.bounds,
    )
    return Step(f"export/{target.name}", "export", params, {"source": source}, ("exporters", target.exporter))


def _bench(recipe: Recipe, target: profiles.Target) -> Step:
    bench = recipe.bench
    device = profiles.device(bench.device)
    registry.find("transport", device.transport, f"device {device.name}: transport")
    if bench.runtime not in target.runtimes:
        raise RecipeError(
            "bench.runtime", f"{bench.runtime!r} does not run target {target.name}", ", ".join(target.runtimes)
        )
    params = BenchParams(
        target=target.name,
        device=device.name,
        runtime=bench.runtime,
        provider=device.runtimes[bench.runtime].provider,
        transport=device.transport,
        golden_error_to_range=target.golden_error_to_range,
        profile=bench.profile,
        threads=bench.threads,
        roles=_roles(recipe),
    )
    return Step(
        f"bench/{target.name}@{device.name}", "bench", params, {"data": "data", "export": f"export/{target.name}"}
    )
