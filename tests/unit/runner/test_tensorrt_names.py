"""Every name that the program takes from TensorRT's bindings and from CUDA is in the real ones, with that many arguments.

`tests/trtnames.json` was read from the wheels by `tests/trtnames.py`; no TensorRT runs here.
"""

import ast
import json
from pathlib import Path

import pytest

import edgekd
from edgekd.runner.trt.cudart import FUNCTIONS

TABLE = json.loads((Path(__file__).parents[2] / "trtnames.json").read_text())
RUNNER = Path(edgekd.__file__).parent / "runner"
SOURCES = sorted(RUNNER.glob("trt/*.py"))
# What a variable of these files holds; of `self`, what a class's base is.
KINDS = {
    "builder": "Builder", "network": "INetworkDefinition", "parser": "OnnxParser", "config": "IBuilderConfig",
    "profile": "IOptimizationProfile", "plan": "IHostMemory", "cache": "ITimingCache", "layer": "ILayer", "tensor": "ITensor",
    "engine": "ICudaEngine", "self._engine": "ICudaEngine", "self._context": "IExecutionContext", "self._runtime": "Runtime",
    "inspector": "EngineInspector", "flag": "NetworkDefinitionCreationFlag",
}  # fmt: skip
GIVES = {  # a method whose result is used at once
    "IBuilderConfig.get_timing_cache": "ITimingCache", "OnnxParser.get_error": "ParserError", "INetworkDefinition.get_input": "ITensor",
}  # fmt: skip
# Names that a version lacks, and where the program looks before it uses them.
MISSING = {
    ("NetworkDefinitionCreationFlag.STRONGLY_TYPED", "8.6.1"),
    ("NetworkDefinitionCreationFlag.EXPLICIT_BATCH", "11.4.0.106"),
    ("BuilderFlag.INT8", "11.4.0.106"),
    ("BuilderFlag.FP16", "11.4.0.106"),
    ("IProgressMonitor", "8.6.1"),
    ("IBuilderConfig.progress_monitor", "8.6.1"),
}
NOT_TENSORRT = {"cache.py"}  # its `cache` is our own module's


def uses(source):
    """{(name, number of arguments or None)}: `Class`, `Class.member`."""
    found, calls = set(), {}
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            of_a_base = bool(node.args) and ast.unparse(node.args[0]) == "self"  # Base.__init__(self)
            calls[node.func] = len(node.args) + len(node.keywords) - of_a_base
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            kind = kind_of(node.value)
            if kind == "module":
                found.add((node.attr, None))
                if node in calls:
                    found.add((node.attr + ".__init__", calls[node]))
            elif kind:
                found.add((f"{kind}.{node.attr}", calls.get(node)))
    return found


def kind_of(node):
    text = ast.unparse(node)
    if text in ("trt", "self.trt"):
        return "module"
    if isinstance(node, ast.Attribute) and kind_of(node.value) == "module":
        return node.attr  # an enum of the module
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return GIVES.get(f"{kind_of(node.func.value)}.{node.func.attr}")
    return KINDS.get(text)


ALL = sorted(
    {use for path in SOURCES if path.name not in NOT_TENSORRT for use in uses(path.read_text())},
    key=lambda use: str(use),
)
OWN = {
    "ITimingCache.say",
    "ITimingCache.Shelf",
    "ITimingCache.facts_of",
    "ITimingCache.key_of",
}  # of `cache`, our module


def wrong(use, version):
    """What the bindings of a version say against a use; empty where it fits."""
    name, count = use
    names = TABLE["tensorrt"][version]
    kind, _, member = name.partition(".")
    if not member:
        return "" if kind in names["module"] or kind.startswith("__") else f"no {kind}"
    if kind not in names:
        return "" if kind == "IProgressMonitor" and version == "8.6.1" else f"no class {kind} in the table"
    if member == "__init__" and member not in names[kind]:
        return "" if kind in names["module"] else f"no {kind}"
    if member not in names[kind]:
        return f"no {name}"
    takes = names[kind][member]
    if (takes is None) != (count is None):
        return f"{name} is {'no' if takes is None else 'a'} method"
    return "" if takes is None or takes[0] <= count <= takes[1] else f"{name} takes {takes} arguments, not {count}"


def test_the_uses_are_found():
    names = {name for name, _ in ALL} - OWN
    assert len(names) >= 60
    assert {
        "IExecutionContext.execute_async_v3", "IExecutionContext.set_tensor_address", "Builder.build_serialized_network",
        "OnnxParser.__init__", "ParserError.desc", "ITimingCache.serialize", "TensorIOMode.INPUT", "Runtime.deserialize_cuda_engine",
        "EngineInspector.get_layer_information", "IOptimizationProfile.set_shape", "ICudaEngine.get_tensor_profile_shape",
    } <= names  # fmt: skip


@pytest.mark.parametrize("version", sorted(TABLE["tensorrt"]))
def test_every_name_is_in_the_bindings(version):
    used = [use for use in ALL if use[0] not in OWN]
    assert not [said for use in used if (use[0], version) not in MISSING and (said := wrong(use, version))]


@pytest.mark.parametrize(("name", "version"), sorted(MISSING))
def test_what_is_said_to_be_missing_is_used_and_missing(name, version):
    kind, _, member = name.partition(".")
    assert kind not in TABLE["tensorrt"][version] or member not in TABLE["tensorrt"][version][kind]
    assert name in {used for used, _ in ALL}
    guard = f'hasattr(trt.{kind}, "{member}")' if member in ("INT8", "STRONGLY_TYPED") else f'"{member or kind}")'
    assert any(guard in path.read_text() for path in SOURCES) or member in ("FP16", "progress_monitor")


@pytest.mark.parametrize(
    "line",
    ["self._context.execute_async_v2(1)", "self._context.set_tensor_address('x')", "config.max_workspace_size = 1", "trt.nvinfer()",
     "builder.build_engine(network, config)", "trt.MemoryPoolType.SCRATCH", "engine.get_binding_name(0)", "plan.nbytes()"],
)  # fmt: skip
def test_a_name_of_another_age_would_be_found(line):
    assert any(wrong(use, version) for use in uses(line) for version in ("10.3.0", "11.4.0.106")), line


@pytest.mark.parametrize("version", sorted(TABLE["cuda"]))
def test_the_cuda_runtime_has_these_functions_with_that_many_arguments(version):
    assert len(TABLE["cuda"]) == 3
    header = TABLE["cuda"][version]
    assert {name: len(types) for name, types in FUNCTIONS.items()} == {name: header.get(name) for name in FUNCTIONS}


def test_every_cuda_function_that_is_called_is_declared():
    called = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Constant)
                and isinstance(node.value, str)
                and node.value.startswith("cuda")
                and node.value.isalnum()
            ):
                called.add(node.value)
    assert called - {"cudart"} == set(FUNCTIONS)
