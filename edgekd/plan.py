"""recipe -> steps: what the chain does, in order, and with which parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgekd import devices, methods, profiles, registry
from edgekd.errors import RecipeError, nearest
from edgekd.params import (
    AdoptParams,
    BenchParams,
    DataParams,
    DistillParams,
    ExportParams,
    GraphParams,
    Params,
    ProgramParams,
    QatParams,
    QuantizeParams,
    Roles,
    StudentParams,
    TeacherParams,
    ViewsParams,
)
from edgekd.recipe import Distill, Fit, Qat, Recipe
from edgekd.targets import measurable, resolve_targets, runtime_of, trained_scheme, with_sources
from edgekd.validation import check, needs_teacher, reachable

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

    @property
    def kind(self) -> str:
        """Its place in the chain, as in GOALS."""
        return self.name.partition("/")[0]


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
    where = "export" if targets is None else "--format"
    names = resolve_targets(recipe.export if targets is None else targets, where, recipe)
    steps = [_data(recipe)]
    if until == "teacher" or (recipe.distill is not None and needs_teacher(recipe.distill)):
        steps.append(_teacher(recipe))
    if until not in ("data", "teacher"):
        steps += _beginning(recipe, until)
    if until in ("quantized", "export", "bench"):
        chosen = reachable(recipe, [profiles.target(name) for name in names], targets is not None)
        measured = measurable(recipe, chosen, targets is not None) if until == "bench" else []
        chosen = with_sources(chosen)
        needed = {target.made_from for target in chosen}
        schemes = sorted(name.partition("/")[2] for name in needed if name.startswith("quantized/"))
        schemes = schemes or (["u8s8"] if until == "quantized" else [])
        steps += [_quantize(recipe, scheme) for scheme in schemes if recipe.student.scheme is None]
        if until != "quantized":
            steps += [_program(recipe)] if "program" in needed else []
            steps += [_export(recipe, target) for target in chosen]
        if until == "bench":
            resolved = [devices.resolve(name) for name in devices.split(recipe.bench.device)] if measured else []
            _require_apart([device.name for device in resolved])
            steps += [
                step for device in resolved for target in measured for step in bench_steps(recipe, target, device)
            ]
    return steps[:1] if until == "data" else steps


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
        weights=teacher.weights,
        normalize=teacher.normalize,
        expect_top1=teacher.expect_top1,
        trained_on=teacher.trained_on,
        augment=None if imported else _augment(recipe),
        roles=_roles(recipe),
        seed=recipe.seed,
    )
    return Step("teacher", "train", params, {"data": "data"}, ("distillers", "ce"))


def _views(recipe: Recipe, distill: Distill, fit: Fit, views: int) -> Step:
    stored = methods.stored(distill.use, distill.args)
    assert stored is not None  # refused by check
    kind, reductions = stored
    params = ViewsParams(
        views=views,
        taps=kind,  # type: ignore[arg-type]  # of the method's own Literal
        reductions=reductions,
        device=fit.device,
        precision=fit.precision,
        compile=fit.compile,
        augment=_augment(recipe),
        roles=_roles(recipe),
        seed=recipe.seed,
    )
    return Step("views", "views", params, {"data": "data", "teacher": "teacher"})


def _beginning(recipe: Recipe, until: str) -> list[Step]:
    """The steps from the student, or from what is imported in its place, to the float graph as far as it is wanted."""
    if recipe.student.onnx is not None:
        return [_adopted(recipe, recipe.student.onnx, until)]
    steps = [_student_imported(recipe)] if recipe.student.imported else _student_fitted(recipe)
    if until == "student":
        return steps
    if recipe.qat is not None:
        steps.append(_qat(recipe, recipe.qat, steps[-1]))
    inputs = {"data": "data", "student": steps[-1].name}
    return [*steps, Step("graph", "graph", GraphParams(roles=_roles(recipe)), inputs)]


def _qat(recipe: Recipe, qat: Qat, student: Step) -> Step:
    """The student's own training, gone on with; of an imported one with labels alone."""
    fitted = student.params if isinstance(student.params, StudentParams) else None
    fit = fitted.fit if fitted is not None else Fit()  # type: ignore[call-arg]
    changes = {
        "epochs": qat.epochs,
        "lr": fit.lr / 10 if qat.lr is None else qat.lr,
        "schedule": qat.schedule,
        "milestones": None,
        "warmup": 0.0,
        "ema": 0.0,
    }
    params = QatParams(
        model=student.params.model,  # type: ignore[attr-defined]  # both kinds of student have one
        fit=fit.model_copy(update={**changes, "precision": "fp32", "keep": "last"}),
        distill=fitted.distill if fitted is not None else DistillParams(use="ce", cached_views=None),
        normalize=student.params.normalize,  # type: ignore[attr-defined]
        augment=_augment(recipe),
        roles=_roles(recipe),
        seed=student.params.seed,  # type: ignore[attr-defined]
        scheme=trained_scheme(recipe, qat),
        calibrate=qat.calibrate,
        images=qat.images,
        learn_ranges=qat.learn_ranges,
    )
    inputs = {"data": "data", "student": "student"}
    inputs |= {role: step for role, step in student.inputs.items() if role in ("teacher", "views")}
    return Step("qat", "qat", params, inputs, ("distillers", params.distill.use))


def _adopted(recipe: Recipe, file: str, until: str) -> Step:
    """The ONNX file in place of the graph, or of its quantized form."""
    student = recipe.student
    if until == "student":
        raise RecipeError("student.onnx", "an ONNX file: there is nothing to distil", "a network", "edgekd quantize")
    if until in ("graph", "quantized") and student.scheme is not None:
        found = f"the file is quantized already (student.scheme: {student.scheme})"
        raise RecipeError("student.onnx", found, "a float32 file", "edgekd bench, or edgekd export")
    params = AdoptParams(
        onnx=file,
        scheme=student.scheme or "none",
        normalize=student.normalize,
        expect_top1=student.expect_top1,
        trained_on=student.trained_on or "train",
        roles=_roles(recipe),
    )
    return Step(f"quantized/{student.scheme}" if student.scheme else "graph", "adopt", params, {"data": "data"})


def _student_imported(recipe: Recipe) -> Step:
    student = recipe.student
    assert student.model is not None  # checked with the recipe
    params = TeacherParams(
        model=student.model,
        checkpoint=student.checkpoint,
        normalize=student.normalize or "dataset",
        expect_top1=student.expect_top1,
        trained_on=student.trained_on or "train",
        role="student",
        roles=_roles(recipe),
        seed=recipe.seed,
    )
    return Step("student", "train", params, {"data": "data"})


def _student_fitted(recipe: Recipe) -> list[Step]:
    student, distill = recipe.student, recipe.distill
    assert student.model is not None and student.fit is not None and distill is not None  # checked with the recipe
    views = [] if distill.cached_views is None else [_views(recipe, distill, student.fit, distill.cached_views)]
    params = StudentParams(
        model=student.model,
        fit=student.fit,
        distill=DistillParams(
            use=distill.use,
            args=registry.check("distillers", distill.use, distill.args, "distill"),
            cached_views=distill.cached_views,
        ),
        normalize=student.normalize or "dataset",
        augment=_augment(recipe),
        roles=_roles(recipe),
        seed=recipe.seed if student.seed is None else student.seed,
    )
    inputs = {"data": "data", "teacher": "teacher"} if needs_teacher(distill) else {"data": "data"}
    if views:
        inputs["views"] = "views"
    return [*views, Step("student", "distill", params, inputs, ("distillers", distill.use))]


def _quantize(recipe: Recipe, scheme: str) -> Step:
    quantize = recipe.quantize
    use, args = _quantizer(recipe, scheme)
    params = QuantizeParams(
        scheme=scheme,
        use=use,
        args=registry.check("quantizers", use, args, "quantize"),
        images=quantize.images,
        roles=_roles(recipe),
        seed=recipe.seed,
    )
    inputs = {"data": "data", "graph": "graph"} | ({"qat": "qat"} if recipe.qat is not None else {})
    return Step(f"quantized/{scheme}", "quantize", params, inputs, ("quantizers", use))


def _quantizer(recipe: Recipe, scheme: str) -> tuple[str, dict[str, Any]]:
    """(quantizer, its arguments) of a scheme: the recipe's own if it makes it, else the one other with its defaults."""
    own = recipe.quantize
    makers = {name: list(p.attributes.get("schemes", ())) for name, p in registry.plugins("quantizers").items()}
    if scheme in makers.get(own.use, [scheme]):  # an unknown name is refused by the check of its arguments
        return own.use, own.args
    # one that is made of others is never taken unasked
    plain = [name for name in makers if "wraps" not in registry.find("quantizers", name).attributes]
    others = [name for name in plain if scheme in makers[name]]
    if len(others) != 1:
        made = sorted({item for items in makers.values() for item in items})
        found = f"{own.use} does not make scheme {scheme!r} of an export target, "
        if others:
            raise RecipeError("quantize.use", found + "several others do", "one of: " + ", ".join(others))
        raise RecipeError("quantize.use", found + "nor does any other quantizer", nearest(scheme, made))
    return others[0], {}


def _program(recipe: Recipe) -> Step:
    """What tool chains of PyTorch start from: the weights that would be traced to the graph."""
    params = ProgramParams(images=recipe.quantize.images, roles=_roles(recipe), seed=recipe.seed)
    source = "student" if recipe.qat is None else "qat"
    return Step("program", "program", params, {"data": "data", "student": source})


def _export(recipe: Recipe, target: profiles.Target) -> Step:
    own: dict[str, Any] = {}
    if target.tool is not None:
        own = {
            "tool": target.tool,
            "kind": target.kind,
            "images": recipe.quantize.images,
            "roles": _roles(recipe),
            "seed": recipe.seed,
        }
    params = ExportParams(
        target=target.name,
        family=target.family,
        exporter=target.exporter,
        scheme=target.scheme,
        args=registry.check("exporters", target.exporter, target.args, f"target {target.name}: args"),
        parity=target.bounds,
        **own,
    )
    inputs = {"source": target.made_from} | ({"data": "data"} if target.tool is not None else {})
    return Step(f"export/{target.name}", "export", params, inputs, ("exporters", target.exporter))


def _require_apart(names: Sequence[str]) -> None:
    """Two names for one board would be measured at once on it."""
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise RecipeError("bench.device", f"{twice} is meant twice", "each device once", "edgekd devices")


def bench_steps(recipe: Recipe, target: profiles.Target, device: profiles.Device) -> list[Step]:
    """Its step on one device; none where the device has no runtime for it."""
    runtime = runtime_of(recipe, device, target)
    if runtime is None:
        return []
    inputs = {"data": "data", "export": f"export/{target.name}"}
    return [Step(f"bench/{target.name}@{device.name}", "bench", bench_params(recipe, target, device, runtime), inputs)]


def bench_params(recipe: Recipe, target: profiles.Target, device: profiles.Device, runtime: str) -> BenchParams:
    """How a target is measured on a device in one of the device's runtimes."""
    return BenchParams(
        target=target.name,
        device=device.profile or device.name,
        board=device.reference,
        runtime=runtime,
        provider=device.runtimes[runtime].provider,
        transport=device.transport,
        golden_error_to_range=target.golden_error_to_range,
        profile=recipe.bench.profile,
        threads=recipe.bench.threads,
        options=device.runtimes[runtime].options or None,
        probes={"power": device.power} if device.power else None,
        kind="emulated" if device.kind == "emulated" else None,
        roles=_roles(recipe),
    )
