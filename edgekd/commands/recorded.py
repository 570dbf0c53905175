"""A step again as a manifest recorded it: the recipe file is not read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from edgekd import params as stages
from edgekd.artifact import Artifact
from edgekd.commands.origins import data_args, said_in_recipe
from edgekd.errors import IntegrityError
from edgekd.keys import FILES
from edgekd.params import Params
from edgekd.plan import Step

PARAMS: Mapping[str, type[Params]] = {
    "data": stages.DataParams,
    "train": stages.TeacherParams,
    "views": stages.ViewsParams,
    "distill": stages.StudentParams,
    "qat": stages.QatParams,
    "graph": stages.GraphParams,
    "adopt": stages.AdoptParams,
    "program": stages.ProgramParams,
    "quantize": stages.QuantizeParams,
    "export": stages.ExportParams,
    "bench": stages.BenchParams,
}
CHECKS = ("expect_top1",)  # of results; manifests of the first version carry it


def recorded(artifact: Artifact) -> Step:
    """The step that made an artifact, with what its key leaves out put back: device, precision, names of files.

    Raises:
        IntegrityError: Its parameters are not those of a stage of this version.
    """
    manifest: Mapping[str, Any] = artifact.manifest
    values = {name: value for name, value in manifest["params"].items() if name not in CHECKS}
    environment = manifest.get("environment") or {}
    place = {name: environment[name] for name in ("device", "precision") if name in environment}
    if isinstance(values.get("fit"), dict):
        values["fit"] = {**values["fit"], **place}
    if manifest["stage"] == "views":
        values |= place
    if manifest["stage"] == "data":
        values["args"] = data_args(artifact)
    for name in FILES:
        if values.get(f"{name}_sha256"):
            section = "student" if name == "onnx" else str(values.get("role", "teacher"))
            values[name] = said_in_recipe(artifact, section, name) or name
    if manifest["stage"] == "bench" and values.get("transport") == "ssh":
        values["board"] = artifact.step.partition("@")[2]  # which board it was is in no key
    kind = PARAMS.get(str(manifest["stage"]))
    try:
        if kind is None:
            raise IntegrityError(artifact.id, f"is of stage {manifest['stage']}", "one of: " + ", ".join(PARAMS))
        params = kind.model_validate(values)
    except ValidationError as error:
        item = error.errors()[0]
        place_of = ".".join(map(str, item["loc"]))
        raise IntegrityError(
            artifact.id,
            f"has parameters of another version of edgekd ({place_of}: {item['msg']})",
            "parameters of this version",
            f"the version that made it: edgekd {manifest.get('versions', {}).get('edgekd', '')}",
        ) from error
    plugin = manifest.get("plugin")
    inputs = {role: str(entry["step"]) for role, entry in manifest["inputs"].items()}
    own = (str(plugin["group"]), str(plugin["name"])) if plugin else None
    return Step(artifact.step, str(manifest["stage"]), params, inputs, own)
