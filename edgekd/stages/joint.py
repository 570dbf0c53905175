"""A training step in several processes: rank 0 says which, the others train with it and keep nothing."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekd import artifact
from edgekd.artifact import Artifact
from edgekd.console import Console
from edgekd.errors import StageFailed
from edgekd.fit.board import Board
from edgekd.fit.distributed import Group
from edgekd.params import Params, StudentParams, TeacherParams
from edgekd.stages.base import RunContext

PARAMS: Mapping[str, type[Params]] = {"train": TeacherParams, "distill": StudentParams}
SAME = ("device", "precision", "compile", "threads")  # of the context: as in rank 0


def call(stage: str, params: Params, inputs: Mapping[str, Artifact], context: RunContext) -> None:
    """Let the other processes, if there are any, `join` the fit that comes next."""
    if context.group.board is None:
        return
    step = {
        "stage": stage,
        "params": params.model_dump(mode="json"),
        "inputs": {role: str(given.path.resolve()) for role, given in inputs.items()},
        "data_roots": [str(root.resolve()) for root in context.data_roots],
        "recipe_dir": None if context.recipe_dir is None else str(context.recipe_dir.resolve()),
        "same": {name: getattr(context, name) for name in SAME},
    }
    context.group.board.post(json.dumps(step))


def follow(group: Group, board: Board) -> None:
    """Join every fit that rank 0 calls for, until it needs nobody any more.

    Raises:
        StageFailed: An artifact of rank 0 cannot be read here; or as the fit fails.
    """
    while note := board.take():
        step: dict[str, Any] = json.loads(note)
        context = RunContext(
            data_roots=tuple(Path(root) for root in step["data_roots"]),
            recipe_dir=None if step["recipe_dir"] is None else Path(step["recipe_dir"]),
            resume=Path(),  # rank 0 reads and writes the checkpoints
            console=Console(quiet=True),
            group=group,
            **step["same"],
        )
        inputs = {role: _opened(Path(path)) for role, path in step["inputs"].items()}
        params = PARAMS[step["stage"]].model_validate(step["params"])
        importlib.import_module(f"edgekd.stages.{step['stage']}").join(params, inputs, context)


def _opened(path: Path) -> Artifact:
    if not path.is_dir():
        raise StageFailed(str(path), "is not there", "a workspace that every machine of the run reaches by this path")
    return artifact.read(path)
