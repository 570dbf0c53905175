"""What a chain began with and no artifact holds: the data set's own files, checkpoints and ONNX files from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from edgekd import registry
from edgekd.artifact import Artifact, sha256_file
from edgekd.commands import current
from edgekd.data.base import DataSource
from edgekd.data.checkpoint_file import find_checkpoint
from edgekd.errors import EdgekdError, IntegrityError, MissingTool, RecipeError
from edgekd.integrity import Fault
from edgekd.models import published


@dataclass(frozen=True)
class Origin:
    """Files from outside, looked for again.

    Attributes:
        artifact: Id of what was made from them.
        what: What they are, with their name.
        found: SHA-256 of what is there now; "": nothing is, or not in the form that was used.
        expected: SHA-256 that the artifact was made from.
        why: Why nothing was found.
    """

    artifact: str
    what: str
    found: str
    expected: str
    why: str = ""

    @property
    def fault(self) -> Fault | None:
        """The fault where other bytes are there now."""
        if not self.found or self.found == self.expected:
            return None
        return Fault(self.artifact, self.what, f"has SHA-256 {self.found} now", f"SHA-256 {self.expected}")


@dataclass(frozen=True)
class Places:
    """Where files from outside are looked for: data roots, the folder of the recipe, the caches of weights."""

    roots: tuple[Path, ...]
    recipe_dir: Path | None
    caches: tuple[Path, ...]


def recipe_dir(workspace: Path, artifacts: Iterable[Artifact]) -> Path | None:
    """The folder of the recipe that a run with one of the artifacts was made from, as far as that is known here."""
    ids = {artifact.id for artifact in artifacts}
    runs = (run for run in current.all_runs(workspace) if ids & set(run.steps.values()))
    return next((run.folder for run in runs if run.folder is not None), None)


def look(artifacts: Iterable[Artifact], places: Places) -> Iterator[Origin]:
    """Find again and hash what each artifact was made from and no artifact holds."""
    for artifact in artifacts:
        params: Mapping[str, Any] = artifact.manifest["params"]
        if params.get("sources"):
            yield _data(artifact, params, places)
        for name in ("checkpoint", "weights", "onnx"):
            if params.get(f"{name}_sha256"):
                yield _file(artifact, name, params, places)


def said_in_recipe(artifact: Artifact, section: str, key: str) -> str | None:
    """A value of the recipe that an artifact was made from; of an absolute path its last part."""
    values = artifact.manifest.get("recipe", {}).get(section) or {}
    return str(values[key]) if values.get(key) else None


def data_args(artifact: Artifact) -> dict[str, Any]:
    """The arguments of the data set's plugin, with its path, which no key holds."""
    path = said_in_recipe(artifact, "data", "path")
    return {**artifact.manifest["params"].get("args", {}), **({"path": path} if path else {})}


def _data(artifact: Artifact, params: Mapping[str, Any], places: Places) -> Origin:
    what, expected = f"source files of {params['use']}", str(params["sources"])
    args = data_args(artifact)
    beside = () if places.recipe_dir is None or "path" not in args else (places.recipe_dir,)
    try:
        source = cast("DataSource", registry.construct("data", params["use"], args))
        located = source.locate((*beside, *places.roots))
    except (RecipeError, MissingTool) as error:
        return Origin(artifact.id, what, "", expected, _first(error))
    if params.get("layout") and located.layout != params["layout"]:
        why = f"{located.folder} has layout {located.layout}, and {params['layout']} was read"
        return Origin(artifact.id, what, "", expected, why)
    return Origin(artifact.id, what, located.sources, expected)


def _file(artifact: Artifact, name: str, params: Mapping[str, Any], places: Places) -> Origin:
    expected = str(params[f"{name}_sha256"])
    section = "student" if name == "onnx" else str(params.get("role", "teacher"))
    file = said_in_recipe(artifact, section, name)
    what = f"{section}.{name} {file or ''}".strip()
    if file is None:
        return Origin(artifact.id, what, "", expected, "no name of it is recorded")
    try:
        return Origin(artifact.id, what, _hash(name, file, params, places.recipe_dir, places), expected)
    except (RecipeError, MissingTool) as error:
        return Origin(artifact.id, what, "", expected, _first(error))
    except IntegrityError as error:
        return Origin(artifact.id, what, "unreadable", expected, _first(error))


def _hash(name: str, file: str, params: Mapping[str, Any], beside: Path | None, places: Places) -> str:
    if name == "weights":
        return sha256_file(published.find(str(params["model"]), file, beside, places.roots, places.caches))
    path = find_checkpoint(file, beside, places.roots)
    if name == "checkpoint":
        return sha256_file(path)
    from edgekd.onnximport import read

    return read.digest(path)


def looked_at(origins: Sequence[Origin]) -> list[dict[str, str]]:
    """For `--json`."""
    return [vars(origin) for origin in origins]


def _first(error: EdgekdError) -> str:
    return error.found.splitlines()[0]
