"""`edgekd sensitivity`: what each layer of the current run's network costs when it alone is quantized."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd import recipe as recipes
from edgekd import registry
from edgekd.analysis import sensitivity as rows
from edgekd.artifact import Artifact
from edgekd.commands import current, output
from edgekd.console import Console
from edgekd.durable import inside, write_whole
from edgekd.errors import RecipeError, UsageError
from edgekd.params import QuantizeParams
from edgekd.plan import plan
from edgekd.recipe import Recipe
from edgekd.store import Store

if TYPE_CHECKING:
    from edgekd.quantizers.base import Judge
    from edgekd.quantizers.draft import Draft

TABLE, PICTURE = "sensitivity.json", "sensitivity.png"
INTEGER = ("u8s8", "s8-trt")  # schemes that have layers to look at


@dataclass(frozen=True)
class SensitivityOptions:
    """The command line, as typed."""

    recipe: str | None
    source: str | None
    overrides: list[str] | None
    scheme: str | None
    images: int
    workspace: Path
    output: Path | None
    threads: int
    json: bool


def sensitivity(options: SensitivityOptions) -> None:
    """Print the table of layers, the most sensitive first, and write it with its picture.

    Raises:
        UsageError: There is no run, or no graph in it.
        RecipeError: The recipe's quantizer has no layers to look at, or there is no image to look with.
    """
    console = Console()
    recipe, made = _chosen(options, console)
    missing = [step for step in ("data", "graph") if step not in made]
    if missing:
        hint = f"edgekd quantize{current.option(options.workspace)}"
        raise UsageError(f"recipe {recipe.name}", f"{missing[0]} is not made yet", "a run with a float graph", hint)
    facts = _facts(recipe, _params(recipe, options.scheme), made, options, console)
    folder = options.output or inside(options.workspace, options.workspace / "reports" / recipe.name)
    from edgekd.report import sensitivity_plot  # matplotlib

    write_whole(folder / PICTURE, sensitivity_plot.png(facts))
    write_whole(folder / TABLE, json.dumps(facts, indent=1, ensure_ascii=False).encode())
    # mixed has no use for trained ranges
    remedy = "qat.epochs=N" if "qat" in made else _mixed(_params(recipe, options.scheme), made)
    following = f"edgekd quantize --set {remedy}{current.option(options.workspace)}"
    if options.json:
        output.print_json({**facts, "picture": str(folder / PICTURE), "next": following})
        return
    _print(facts, folder, following)


def _chosen(options: SensitivityOptions, console: Console) -> tuple[Recipe, Mapping[str, Artifact]]:
    """The recipe, and what was made of it: an artifact's own chain, a recipe's last run, or the current one."""
    overrides = list(options.overrides or [])
    if options.source is not None:
        last = current.resolve(options.workspace, options.source)
        console.log(f"sensitivity of {last.id} (chosen with --from)")
        values = last.manifest.get("recipe", {})
        return recipes.from_dict(values, f"recipe of {last.id}", overrides), current.upstream(
            Store(options.workspace), last
        )
    if options.recipe is None:
        run = current.require(options.workspace, "a run with a float graph")
    else:
        run = current.last_run(options.workspace, options.recipe, "quantize")
    console.log(f"sensitivity of {run.name} (a run of {options.workspace})")
    made = current.artifacts(options.workspace, run)
    return recipes.from_dict(run.recipe, f"recipe {run.name}", overrides), made


def _params(recipe: Recipe, scheme: str | None) -> QuantizeParams:
    """Of the recipe's int8 step: of the scheme asked for, else of the first one that it makes."""
    steps = [step.params for step in plan(recipe, until="quantized") if isinstance(step.params, QuantizeParams)]
    found = [params for params in steps if params.scheme == scheme or (scheme is None and params.scheme in INTEGER)]
    if found:
        return found[0]
    if scheme is not None and scheme not in INTEGER:
        raise RecipeError("--scheme", f"{scheme!r} has no layers to look at", "one of: " + ", ".join(INTEGER))
    first = steps[0] if steps else None
    if first is None:
        raise RecipeError("student.onnx", "is quantized already", "a float32 file", "edgekd sensitivity --from FLOAT")
    return first.model_copy(update={"scheme": scheme or INTEGER[0], **_able(recipe, scheme or INTEGER[0])})


def _able(recipe: Recipe, scheme: str) -> dict[str, Any]:
    """The recipe's quantizer where it makes the scheme, else `ptq`."""
    own = recipe.quantize
    made = registry.find("quantizers", own.use, "quantize.use").attributes.get("schemes", ())
    return {"use": own.use, "args": own.args} if scheme in made else {"use": "ptq", "args": {}}


def _facts(
    recipe: Recipe, params: QuantizeParams, made: Mapping[str, Artifact], options: SensitivityOptions, console: Console
) -> dict[str, Any]:
    """Every layer alone, and all together, against the float network on the same images."""
    from edgekd.quantizers import judged, layers

    draft, judge = _draft(params, made, options, console)
    reference = judged.logits(draft.model, judge)
    with console.task("sensitivity", len(draft.layers), "layer") as task:
        found = layers.losses(draft, judge, reference, lambda loss: task.advance(layer=loss.layer))
    whole = judged.score(reference, judged.logits(draft.written(), judge), judge)
    float_top1 = 100.0 * float((reference.argmax(axis=1) == judge.labels).mean())
    return {
        "recipe": recipe.name,
        "graph": made["graph"].id,
        "scheme": params.scheme,
        "quantizer": params.use,
        "args": params.args,
        "role": judge.role,
        "images": len(judge.rows),
        "float_top1_percent": round(float_top1, 4),
        "all": whole.figures(),
        "layers": [loss.figures() for loss in found],
        "most_sensitive_first": [loss.layer for loss in rows.ranked(found)],
    }


def _draft(
    params: QuantizeParams, made: Mapping[str, Artifact], options: SensitivityOptions, console: Console
) -> tuple[Draft, Judge]:
    """The quantization as the step would decide it, and the images to look with."""
    from edgekd.data import calibration, roles
    from edgekd.quantizers.base import Quantizer
    from edgekd.stages import judge as judging
    from edgekd.stages import quantize
    from edgekd.stages.converted import normalization, read_json

    arrays = roles.split(made["data"], params.roles)
    norm = normalization(read_json(made["graph"].path / "model.json"))
    rows_used = calibration.calibration_rows(arrays, params.images, params.seed)
    judge = judging.judge(arrays, rows_used, norm, seed=params.seed, threads=options.threads, most=options.images)
    if judge is None:
        raise RecipeError(
            "quantize.images", "every image of train is calibrated on", "images to look with", "data.val > 0"
        )
    console.log(f"sensitivity: {params.use}, scheme {params.scheme}, {len(judge.rows):,} images of {judge.role}")
    quantizer = registry.construct("quantizers", params.use, params.args)
    assert isinstance(quantizer, Quantizer)
    ranges = quantize.trained_ranges(made.get("qat"), params.scheme, console)
    batches = quantize.batches(arrays.images("train").images, rows_used, norm)
    return quantizer.draft(made["graph"].path / "model.onnx", batches, params.scheme, judge, ranges), judge


def _mixed(params: QuantizeParams, made: Mapping[str, Artifact]) -> str:
    """The step that keeps layers in float, with a larger budget where so few images would refuse its own."""
    from edgekd.data import roles
    from edgekd.quantizers import judged
    from edgekd.quantizers.mixed import Mixed
    from edgekd.stages import judge as judging

    rows = roles.split(made["data"], params.roles).rows
    finest = judged.finest_pp(judging.count(len(rows["val"]), len(rows["train"]), params.images) or 1)
    budget = f" --set quantize.max_drop_pp={math.ceil(10 * finest) / 10:g}" if finest > Mixed().max_drop_pp else ""
    return f"quantize.use=mixed{budget}"


def _print(facts: Mapping[str, Any], folder: Path, following: str) -> None:
    by_name = {row["layer"]: rows.LayerLoss(**row) for row in facts["layers"]}
    cells = [by_name[name].cells() for name in facts["most_sensitive_first"]]
    whole = facts["all"]
    output.print_table(rows.COLUMNS, cells, right=rows.RIGHT)
    output.say(
        f"all {len(cells)} layers: SQNR {whole['sqnr_db']:.2f} dB, agreement {whole['agreement_percent']:.2f} %, top-1 "
        f"{whole['top1_percent']:.2f} % of {facts['float_top1_percent']:.2f} % in float, {facts['images']:,} images of "
        f"{facts['role']}; drop {whole['drop_pp']:+.2f} pp, at most {whole['drop_bound_pp']:+.2f} (95 %)"
    )
    output.say(f"table: {folder / TABLE}, picture: {folder / PICTURE}")
    output.next_command(following)
