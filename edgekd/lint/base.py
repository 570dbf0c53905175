"""What a rule is, the graph as rules look at it, and what they found in a file, all at once."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from edgekd import onnxfile
from edgekd.errors import CheckFailed
from edgekd.onnximport.read import constants

SHOWN = 3  # places of one finding in a line for people; the record holds all


@dataclass(frozen=True)
class Graph:
    """A model as rules look at it.

    Attributes:
        path: Its file.
        model: As read.
    """

    path: Path
    model: ModelProto

    @cached_property
    def nodes(self) -> list[NodeProto]:
        """All nodes, those of inner graphs (If, Loop) too."""
        return list(_nodes(self.model.graph))

    @cached_property
    def types(self) -> dict[str, int]:
        """Element type (`TensorProto.DataType`) of each tensor of the outer graph as far as it can be inferred."""
        graph = onnx.shape_inference.infer_shapes(self.model).graph
        values = (*graph.input, *graph.output, *graph.value_info)
        known = {value.name: int(value.type.tensor_type.elem_type) for value in values}
        return known | {name: int(tensor.data_type) for name, tensor in constants(self.model).items()}

    @cached_property
    def constants(self) -> dict[str, Any]:
        """{name: array} of weights and other constants of the outer graph."""
        return {name: numpy_helper.to_array(tensor) for name, tensor in constants(self.model).items()}

    def of(self, *kinds: str) -> list[NodeProto]:
        """The nodes of some operators."""
        return [node for node in self.nodes if node.op_type in kinds]

    def type_of(self, node: NodeProto, place: int) -> int:
        """Element type of an input of a node; UNDEFINED where it has none or it is not known."""
        return self.types.get(node.input[place], 0) if place < len(node.input) else TensorProto.UNDEFINED

    def constant(self, node: NodeProto, place: int) -> Any:
        """Value of a constant input of a node; None where it has none or it is computed."""
        return self.constants.get(node.input[place]) if place < len(node.input) else None


@dataclass(frozen=True)
class Rule:
    """One thing that a runtime asks of a graph.

    Attributes:
        id: `<family>-<what>`, stable: records and tests name it.
        what: What is wrong where the rule finds something.
        why: What the runtime makes of it.
        fix: What to do.
        places: The names of the nodes and tensors where it is wrong; empty = the graph keeps the rule.
        level: An `error` fails an export, a `warning` is said and recorded.
    """

    id: str
    what: str
    why: str
    fix: str
    places: Callable[[Graph], list[str]]
    level: Literal["error", "warning"] = "error"


@dataclass(frozen=True)
class Finding:
    """A rule that a graph does not keep, and all places where it does not."""

    rule: Rule
    places: tuple[str, ...]

    @property
    def text(self) -> str:
        """One line for people."""
        more = len(self.places) - SHOWN
        shown = ", ".join(self.places[:SHOWN]) + (f" and {more} more" if more > 0 else "")
        return f"{self.rule.id}: {self.rule.what} ({shown}): {self.rule.why}; {self.rule.fix}"

    def record(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        rule = self.rule
        return {
            "rule": rule.id,
            "level": rule.level,
            "what": rule.what,
            "why": rule.why,
            "fix": rule.fix,
            "places": list(self.places),
        }


def families() -> list[str]:
    """The families that have rules: the names of the files beside this one."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in ("__init__", "base"))


def rules(family: str) -> tuple[Rule, ...]:
    """The rules of a family; none where no file holds them (a target of a user's own family)."""
    if family not in families():
        return ()
    return cast("tuple[Rule, ...]", importlib.import_module(f"edgekd.lint.{family}").RULES)


def prove(path: Path, family: str, where: str) -> dict[str, Any] | None:
    """What the tool that a family's runtime reads files with says of one; None where the family has no such tool.

    Args:
        path: A file without errors.
        family: Of the target.
        where: The step or file, for errors.

    Raises:
        CheckFailed: It does not take the file.
        MissingTool: It is there and broken.
    """
    if family not in families():
        return None
    tool = getattr(importlib.import_module(f"edgekd.lint.{family}"), "prove", None)
    return None if tool is None else cast("dict[str, Any]", tool(path, where))


def lint(path: Path, family: str) -> list[Finding]:
    """What an ONNX file breaks of a family's rules.

    Raises:
        IntegrityError: It is no ONNX.
    """
    graph = Graph(path, onnxfile.load(path))
    found = [Finding(rule, tuple(rule.places(graph))) for rule in rules(family)]
    return [finding for finding in found if finding.places]


def require(findings: Sequence[Finding], where: str, family: str) -> None:
    """Refuse a graph with errors; all are named.

    Raises:
        CheckFailed: There is one.
    """
    errors = [finding for finding in findings if finding.rule.level == "error"]
    if errors:
        lines = "\n".join(f"  {finding.text}" for finding in errors)
        count = "1 rule" if len(errors) == 1 else f"{len(errors)} rules"
        raise CheckFailed(
            where, f"breaks {count} of family {family}:\n{lines}", "a graph that keeps them", errors[0].rule.fix
        )


def summary(family: str, findings: Sequence[Finding], proof: Mapping[str, Any] | None) -> str:
    """One line for people: what a file was held to and what came out."""
    count = len(rules(family))
    held = f"lint: {count} rules of family {family}" if count else f"lint: family {family} has no rules"
    levels = [finding.rule.level for finding in findings]
    found = [f"{levels.count(level)} {level}(s)" for level in ("error", "warning") if level in levels]
    parts = [f"{held}, {', '.join(found) or 'no finding'}"] if count else [held]
    return "; ".join(parts + ([] if proof is None else [proven(proof)]))


def proven(proof: Mapping[str, Any]) -> str:
    """What a family's tool said, in words."""
    if not proof["checked"]:
        return str(proof["why"])
    said = f"{len(proof['warnings'])} warning(s)" if proof["warnings"] else "no warning"
    return f"{proof['tool']} {proof['version']} parsed it and built it for {proof['capability']}, {said}"


def name_of(node: NodeProto) -> str:
    """What a node is called: its own name, else its operator and what it makes."""
    return node.name or f"{node.op_type} -> {', '.join(node.output)}"


def _nodes(graph: GraphProto) -> Iterator[NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)
