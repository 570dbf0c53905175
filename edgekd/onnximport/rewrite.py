"""Changes to an ONNX graph, in place: names of its values, its last softmax, shapes that were written for one image."""

from __future__ import annotations

from onnx import ModelProto, NodeProto, numpy_helper

from edgekd.errors import RecipeError
from edgekd.onnxfile import OUTPUT
from edgekd.onnximport.read import WHERE, constants

ENDINGS = ("Softmax", "LogSoftmax")  # taken off: the same top-1, and logits are what a chain compares
_PASSES = ("Identity", "Cast", "Flatten", "Reshape", "Squeeze", "QuantizeLinear", "DequantizeLinear")


def rename(model: ModelProto, names: dict[str, str]) -> None:
    """Give values other names, in place; a value that has one of the new names already makes way."""
    graph = model.graph
    taken = {name for node in graph.node for name in (*node.input, *node.output)}
    names = {new: f"{new}_of_the_file" for new in names.values() if new in taken and new not in names} | names
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        value.name = names.get(value.name, value.name)


def cut_ending(model: ModelProto, name: str) -> str:
    """Take a closing softmax off, in place; what it was, or empty.

    Raises:
        RecipeError: The answers are probabilities that cannot be turned back by taking the last operator off.
    """
    makers = {output: node for node in model.graph.node for output in node.output}
    last = first = makers.get(OUTPUT)
    passed = []
    while last is not None and last.op_type in _PASSES:
        passed.append(last.op_type)
        last = makers.get(last.input[0])
    if last is None or first is None or last.op_type not in (*ENDINGS, "Sigmoid"):
        return ""
    if last.op_type == "Sigmoid" or set(passed) - {"Identity"}:
        found = f"{name} ends in {' after '.join([*passed, last.op_type])}: its answers are no logits"
        raise RecipeError(WHERE, found, "logits", f"export it without its last {last.op_type}")
    ending = str(last.op_type)
    _remove(model, first, last, last.input[0])
    return ending


def _remove(model: ModelProto, first: NodeProto, last: NodeProto, logits: str) -> None:
    """Drop the nodes from `last` to the output `first`; the value before them becomes the output."""
    doomed = {id(first), id(last)}
    makers = {output: node for node in model.graph.node for output in node.output}
    node = first
    while node is not last:
        doomed.add(id(node))
        node = makers[node.input[0]]
    kept = [node for node in model.graph.node if id(node) not in doomed]
    kept = [NodeProto.FromString(node.SerializeToString()) for node in kept]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    rename(model, {logits: OUTPUT})


def free_reshapes(model: ModelProto) -> None:
    """`Reshape` to [1, ...] of a graph for one image: 0 there means the batch as it comes."""
    known = constants(model)
    for node in model.graph.node:
        if node.op_type != "Reshape" or node.input[1] not in known:
            continue
        shape = numpy_helper.to_array(known[node.input[1]]).copy()
        if not shape.size or shape[0] != 1 or (shape == 0).any():
            continue
        shape[0] = 0
        kept = [attribute for attribute in node.attribute if attribute.name != "allowzero"]  # with it 0 would mean none
        del node.attribute[:]
        node.attribute.extend(kept)
        free = f"{node.input[1]}_free_batch"
        if free not in {tensor.name for tensor in model.graph.initializer}:
            model.graph.initializer.append(numpy_helper.from_array(shape, free))
        node.input[1] = free
