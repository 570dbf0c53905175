"""Stage `export` into family trt: linted, shown to TensorRT-RTX where it is installed, the same file either way."""

import json
import shutil

import numpy as np
import pytest

from edgekd import profiles, trtcheck
from edgekd.analysis.parity import FP16_MIN_SQNR_DB
from edgekd.console import Console
from edgekd.errors import CheckFailed
from edgekd.params import ExportParams
from edgekd.stages import export
from edgekd.stages.base import RunContext
from tests.onnxtoys import CONTEXT, artifact, chain

TARGETS = {target.scheme: target for target in profiles.targets().values() if target.family == "trt"}
BUILT = {
    "tool": trtcheck.TOOL, "checked": True, "version": "9.9", "capability": "SM86", "errors": [], "warnings": [],
    "layers": 7, "build_seconds": 0.5, "engine_bytes": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """{scheme: quantized artifact} of the schemes of family trt."""
    made = {}
    for scheme, use in (("s8-trt", "ptq"), ("fp16", "fp16")):
        made[scheme] = artifact(f"quantized/{scheme}", tmp_path_factory.mktemp(scheme))
        chain().run_quantize(made[scheme].path, scheme=scheme, use=use)
    return made


@pytest.fixture
def checked(monkeypatch):
    """`checked(True)`: TensorRT-RTX took the file; `checked(False)`: it is not installed."""
    from edgekd.lint import trt

    absent = {"tool": trtcheck.TOOL, "checked": False, "why": f"not checked: {trtcheck.INSTALL}"}
    return lambda there: monkeypatch.setattr(trt, "prove", lambda path, where: BUILT if there else absent)


def params(scheme):
    target = TARGETS[scheme]
    own = {"family": target.family, "exporter": target.exporter, "scheme": scheme, "parity": target.bounds}
    return ExportParams(target=target.name, **own)


def folder(tmp_path, name="out"):
    (tmp_path / name).mkdir()
    return tmp_path / name


def test_the_family_has_a_target_of_each_scheme_of_its():
    assert set(TARGETS) == {"s8-trt", "fp16"}
    assert TARGETS["fp16"].bounds["min_sqnr_db"] == FP16_MIN_SQNR_DB > TARGETS["s8-trt"].bounds["min_sqnr_db"]


@pytest.mark.parametrize("scheme", TARGETS)
def test_the_files_and_what_was_checked_of_them(sources, scheme, tmp_path, checked):
    checked(True)
    out = folder(tmp_path)
    result = export.run(params(scheme), {"source": sources[scheme]}, out, CONTEXT)
    assert {path.name for path in out.iterdir()} == {*result.payload, "parity.json", "lint.json"}
    record = json.loads((out / "lint.json").read_text())
    assert record["findings"] == [] and "trt-uint8" in record["rules"] and record["tool"] == BUILT
    assert result.metrics["n_lint_rules"] == len(record["rules"]) and result.metrics["tool_build_seconds"] == 0.5
    assert "9.9 parsed it and built it for SM86" in result.metrics["tool_check"]


def test_whether_it_was_checked_changes_no_byte_of_what_ships_and_is_said(sources, tmp_path, checked, capsys):
    places, results = {}, {}
    context = RunContext((), None, tmp_path, Console())
    for there in (True, False):
        checked(there)
        places[there] = folder(tmp_path, str(there))
        results[there] = export.run(params("s8-trt"), {"source": sources["s8-trt"]}, places[there], context)
    for name in results[True].payload:
        assert (places[True] / name).read_bytes() == (places[False] / name).read_bytes()
    assert not {"lint.json", "parity.json"} & set(results[True].payload)
    assert "tool_build_seconds" not in results[False].metrics
    assert trtcheck.INSTALL in results[False].metrics["tool_check"] and trtcheck.INSTALL in capsys.readouterr().err


def test_a_graph_for_cpus_is_refused_with_all_its_findings(tmp_path):
    source = artifact("quantized/s8-trt", shutil.copytree(chain().quantized.path, tmp_path / "source"))
    facts = json.loads((source.path / "model.json").read_text())
    (source.path / "model.json").write_text(json.dumps({**facts, "scheme": "s8-trt"}))
    with pytest.raises(CheckFailed) as caught:
        export.run(params("s8-trt"), {"source": source}, folder(tmp_path), CONTEXT)
    assert caught.value.exit_code == 3 and caught.value.where == "export/tensorrt-int8"
    assert all(rule in caught.value.found for rule in ("trt-int32-bias", "trt-zero-point", "trt-uint8"))


def test_a_refusal_of_the_parser_fails_the_export(sources, tmp_path, monkeypatch):
    from edgekd.lint import trt

    def refuse(path, where):
        raise CheckFailed(where, "TensorRT-RTX does not parse it", "a file that it builds")

    monkeypatch.setattr(trt, "prove", refuse)
    with pytest.raises(CheckFailed, match="does not parse it"):
        export.run(params("s8-trt"), {"source": sources["s8-trt"]}, folder(tmp_path), CONTEXT)


def test_half_precision_is_held_to_its_own_bounds(sources, tmp_path, checked):
    checked(False)
    source = artifact("quantized/fp16", shutil.copytree(sources["fp16"].path, tmp_path / "source"))
    with np.load(source.path / "golden.npz") as golden:
        images, logits = golden["images"], golden["logits"]
    noise = np.random.default_rng(0).normal(0, 10 ** (-40 / 20) * np.sqrt((logits**2).mean()), logits.shape)
    np.savez(
        source.path / "golden.npz", images=images, logits=(logits + noise).astype(np.float32)
    )  # 40 dB: enough for int8
    with pytest.raises(CheckFailed, match=r"fp16, 16 images: .*SQNR"):
        export.run(params("fp16"), {"source": source}, folder(tmp_path), CONTEXT)
