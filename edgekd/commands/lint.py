"""`edgekd lint`: an ONNX file held to the rules of a target's family, and to its tool where that is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekd import profiles
from edgekd.commands import current, output
from edgekd.errors import EdgekdError, RecipeError, UsageError, nearest
from edgekd.lint import base as linter

MODEL = "model.onnx"


def lint(reference: str, format_: str | None, workspace: Path, json: bool) -> None:
    """Print every finding.

    Args:
        reference: An ONNX file, or an artifact of the workspace that holds one.
        format_: Family or target; None: that of an exported artifact.
        workspace: Where artifacts are looked up.
        json: One document instead of a table.

    Raises:
        CheckFailed: A rule of level `error` is broken, or the family's tool refuses the file.
        MissingTool: That tool is installed and broken.
        UsageError: No such file or artifact, no such family, or no family for a file.
        IntegrityError: It is no ONNX.
    """
    path, own = _file(reference, workspace)
    family = _family(format_, own)
    findings = linter.lint(path, family)
    proof: dict[str, Any] | None = None
    error: EdgekdError | None = None
    try:
        linter.require(findings, reference, family)
        proof = linter.prove(path, family, reference)
    except EdgekdError as caught:
        error = caught
    facts = {
        "file": str(path),
        "family": family,
        "rules": [rule.id for rule in linter.rules(family)],
        "findings": [finding.record() for finding in findings],
        "tool": proof,
    }
    if json:
        if error is not None:
            output.fail(error, facts)
        output.print_json(facts)
        return
    rows = [(f.rule.level, f.rule.id, f.rule.what, ", ".join(f.places[: linter.SHOWN])) for f in findings]
    if rows:
        output.print_table(("level", "rule", "what", "where"), rows)
    if error is not None:
        raise error
    output.say(linter.summary(family, findings, proof))
    output.next_command("edgekd formats")


def _file(reference: str, workspace: Path) -> tuple[Path, str | None]:
    """The file, and the family that an exported artifact has."""
    path = Path(reference)
    if path.is_file():
        return path, None
    if path.suffix == ".onnx":
        raise UsageError(reference, "no such file", "an ONNX file, or an artifact", "edgekd artifacts ls")
    artifact = current.resolve(workspace, reference)
    if not (artifact.path / MODEL).is_file():
        raise UsageError(reference, f"{artifact.id} holds no {MODEL}", "an export, quantized or graph artifact")
    return artifact.path / MODEL, artifact.manifest["params"].get("family")


def _family(format_: str | None, own: str | None) -> str:
    known = profiles.targets()
    families = linter.families()
    asked = format_ or own
    if asked is None:
        raise UsageError("--format", "is missing", "one of: " + ", ".join(families), f"--format {families[-1]}")
    family = known[asked].family if asked in known and asked not in families else asked
    if family not in families and format_ is not None:  # an artifact's own family may have none
        raise RecipeError("--format", f"no rules for {asked!r}", nearest(asked, {*families, *known}), "edgekd formats")
    return family
