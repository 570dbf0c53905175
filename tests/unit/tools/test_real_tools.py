"""The real tools, where they are installed: a toy student becomes a LiteRT, an Ethos-U and an ExecuTorch file that answers alike.

Minutes, so they are slow; each is skipped by name where its tool is not installed (`edgekd tools ls`).
"""

import json

import pytest

from edgekd import profiles, registry
from edgekd.artifact import Artifact
from edgekd.errors import MissingTool
from edgekd.params import ExportParams, ProgramParams
from edgekd.stages import export, program
from edgekd.tools import place
from tests.onnxtoys import CONTEXT, ROLES, TEST, artifact, chain

pytestmark = pytest.mark.slow


def real(name):
    """Skip where a tool is not installed."""
    try:
        place.require(name, "test")
    except MissingTool as error:
        pytest.skip(f"needs {error.hint}")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    out = tmp_path_factory.mktemp("program") / "11111111-22222222"
    out.mkdir()
    inputs = {"data": chain().data, "student": chain().student}
    result = program.run(ProgramParams(images=60, roles=ROLES, seed=0), inputs, out, CONTEXT)
    return Artifact(out, artifact("program", out).manifest | {"metrics": result.metrics})


def made(name, source, out):
    """What stage `export` makes of a source: the artifact, and its metrics."""
    target = profiles.target(name)
    for tool in registry.find("exporters", target.exporter).attributes["needs"]:
        real(tool)
    out.mkdir()
    params = ExportParams(
        **{k: getattr(target, k) for k in ("family", "exporter", "scheme", "args", "tool", "kind")},
        **{"target": name, "parity": target.bounds, "images": 60, "roles": ROLES, "seed": 0},
    )
    result = export.run(params, {"source": source, "data": chain().data}, out, CONTEXT)
    return Artifact(out, artifact(f"export/{name}", out).manifest | {"metrics": result.metrics}), result.metrics


@pytest.mark.parametrize("name", ["litert-fp32", "litert-int8", "executorch-fp32", "executorch-int8"])
def test_a_cpu_file_answers_as_the_program_does(source, tmp_path, name):
    there, found = made(name, source, tmp_path / "out")
    assert found["n_test"] == TEST and found["program_error_to_range"] < 1e-4
    assert abs(found["top1_percent"] - source.metrics["top1_percent"]) < 3
    if name.startswith("executorch"):
        assert found["xnnpack_coverage"] == 1.0 and found["n_xnnpack_operators"] > 10
        placed = json.loads((there.path / "placement.json").read_text())
        assert {row["place"] for row in placed["layers"]} == {"XNNPACK"}


def test_the_whole_of_a_resnet8_runs_on_an_ethos_u(source, tmp_path):
    litert, _ = made("litert-int8", source, tmp_path / "litert")
    for name in ("ethos-u55-128", "ethos-u65-256", "ethos-u85-256"):
        there, found = made(name, litert, tmp_path / name)
        assert found["npu_coverage"] == 1.0 and found["fell_back"] == "", name
        assert found["estimated_cycles"] > 0 and found["sram_bytes"] > 0
        placed = json.loads((there.path / "placement.json").read_text())
        assert {row["place"] for row in placed["layers"]} == {"NPU"}


def test_a_float_file_falls_back_and_is_named(source, tmp_path):
    """Vela ends with exit code 0 of it."""
    float_file, _ = made("litert-fp32", source, tmp_path / "litert")
    facts = json.loads((float_file.path / "model.json").read_text()) | {"scheme": "s8-litert"}
    (float_file.path / "model.json").write_text(json.dumps(facts))  # as if somebody had taken it for the int8 one
    _, found = made("ethos-u55-128", float_file, tmp_path / "ethos")
    assert found["npu_coverage"] == 0.0 and "Conv2D" in found["fell_back"] and "Mean" in found["fell_back"]
