"""`edgekd lineage --verify`: one byte changed anywhere in the chain is named with step, file, expected and found."""

import json
import shutil

import numpy as np
import pytest
from provenchain import STEPS, call, flip, reseal

from edgekd import onnxfile
from edgekd.analysis import lineage
from edgekd.artifact import MANIFEST, Artifact, material, material_key, sha256_file
from edgekd.commands import lineage as command
from edgekd.commands.origins import Places, look
from edgekd.store import Store

LAST = STEPS[-1]


def verify(home, reference=LAST):
    done = call(home, "lineage", reference, "--verify", "--json", "--workspace", "w")
    return done.code, json.loads(done.out)


def test_a_clean_chain_passes_and_is_whole(proven):
    code, facts = verify(proven.home)
    assert code == 0 and facts["faults"] == []
    assert [link["step"] for link in facts["chain"]] == list(STEPS)
    assert facts["verified"]["artifacts"] == len(STEPS)
    assert [(o["found"] == o["expected"], bool(o["found"])) for o in facts["outside"]] == [(True, True)]
    for link, step in zip(facts["chain"], STEPS, strict=True):
        artifact = proven.steps[step]
        assert (link["key"], link["digest"]) == (artifact.key, artifact.digest)
        assert link["sealed_at"] and link["edgekd"] and link["host"]


def test_a_board_is_named_beside_the_machine_that_asked_it(proven, capsys):
    last = proven.steps[LAST]
    params = {**last.manifest["params"], "transport": "ssh"}
    there = {**last.manifest, "params": params, "environment": {"board": "Orin", "chip": "T234", "emulated": True}}
    links = [command._link(artifact) for artifact in (last, Artifact(last.path, there))]
    assert [link["board"] for link in links] == ["", "Orin, emulated"]
    command._print(links)
    assert f"Orin, emulated; from {links[0]['host']}" in capsys.readouterr().out


def test_the_chain_is_printed_without_verifying(proven):
    done = call(proven.home, "lineage", "student", "--workspace", "w")
    assert done.code == 0 and "teacher" in done.out and "graph" not in done.out
    assert "next: edgekd lineage --verify student/" in done.out


@pytest.mark.parametrize("step", STEPS)
def test_one_byte_in_any_file_of_any_kind_of_artifact_is_named(proven, home, step):
    artifact = Store(home / "w").get(proven.steps[step].id)
    files = {**artifact.manifest["files"], MANIFEST: None}
    assert {e["payload"] for e in files.values() if e} >= {True}
    for name, entry in files.items():
        kept = (artifact.path / name).read_bytes()
        flip(artifact.path / name)
        if name == MANIFEST and step == LAST:  # nothing can be read of the chain: the one file is the answer
            code, facts = verify(home)
            assert code == 6 and f"{artifact.id}/{MANIFEST}" in facts["error"]["where"]
            assert facts["error"]["found"] and facts["error"]["expected"]
        else:
            code, facts = verify(home)
            named = [fault for fault in facts["faults"] if (fault["artifact"], fault["file"]) == (artifact.id, name)]
            assert code == 6 and len(named) == 1, (name, facts)
            assert {f["file"] for f in facts["faults"] if f["artifact"] == artifact.id} == {name}
            if entry is not None:
                assert entry["sha256"] in named[0]["expected"]
                assert sha256_file(artifact.path / name) in named[0]["found"]
        (artifact.path / name).write_bytes(kept)
    assert verify(home)[0] == 0


@pytest.mark.parametrize("place", [0.0, 0.3, 0.7, 0.999])
def test_any_byte_of_a_manifest_counts(proven, home, place):
    artifact = Store(home / "w").get(proven.steps["graph"].id)
    flip(artifact.path / MANIFEST, place)
    code, facts = verify(home)
    assert code == 6 and [(f["artifact"], f["file"]) for f in facts["faults"]] == [(artifact.id, MANIFEST)]


def test_a_space_in_a_manifest_counts(proven, home):
    path = Store(home / "w").get(proven.steps["graph"].id).path / MANIFEST
    path.write_bytes(path.read_bytes().replace(b"\n ", b"\n\t", 1))
    code, facts = verify(home)
    assert code == 6 and "spelled otherwise" in facts["faults"][0]["found"]


def test_what_is_gone_or_too_many_is_named(proven, home):
    store = Store(home / "w")
    (store.get(proven.steps["student"].id).path / "more.txt").write_text("x")
    shutil.rmtree(store.get(proven.steps["teacher"].id).path)
    code, facts = verify(home)
    assert code == 6
    assert [(f["artifact"], f["file"]) for f in facts["faults"]] == [
        (proven.steps["teacher"].id, ""),
        (proven.steps["student"].id, "more.txt"),
    ]


@pytest.mark.parametrize("json_too", [(), ("--json",)], ids=["text", "json"])
def test_what_is_gone_is_said_without_verifying_and_a_run_makes_it_anew(proven, home, edgekd, json_too):
    shutil.rmtree(home / "w" / "artifacts" / proven.steps["teacher"].id)
    done = edgekd("lineage", LAST, *json_too)
    assert done.code == 6 and "is gone" in done.err and "edgekd run --workspace w" in done.err


def test_the_table_names_step_file_expected_and_found(proven, home, edgekd):
    artifact = proven.steps["quantized/u8s8"]
    flip(home / "w" / "artifacts" / artifact.id / "model.onnx")
    done = edgekd("lineage", LAST, "--verify")
    assert done.code == 6
    assert f"{artifact.id}: model.onnx has other bytes" in done.err
    assert artifact.manifest["files"]["model.onnx"]["sha256"] in done.err


def test_an_artifact_sealed_anew_after_a_change_does_not_fit_its_chain(proven, home):
    """The seal and all hashes are good; the next step knows what it was made from."""
    old = Store(home / "w").get(proven.steps["quantized/u8s8"].id)
    flip(old.path / "predictions.npz")
    folder = reseal(old.path, dict(old.manifest))
    code, facts = verify(home)
    assert (
        code == 6 and [f["artifact"] for f in facts["faults"]] == [old.id] and "is gone" in facts["faults"][0]["found"]
    )
    assert verify(home, f"quantized/u8s8/{folder.name}")[0] == 6  # and its accuracy is not that of its answers


def test_a_changed_parameter_does_not_fit_the_key(proven, home):
    old = Store(home / "w").get(proven.steps["quantized/u8s8"].id)
    values = json.loads(json.dumps(old.manifest))
    values["params"]["images"] = 33
    folder = reseal(old.path, values)
    code, facts = verify(home, f"quantized/u8s8/{folder.name}")
    (fault,) = facts["faults"]
    assert code == 6 and (fault["file"], fault["expected"]) == (MANIFEST, f"key {old.key}")
    assert material_key(material(values)) in fault["found"]


@pytest.mark.parametrize(
    "step, entry, value, said",
    [
        ("graph", "source", "qat/00000000-00000000", "says it was made from qat/00000000-00000000"),
        ("quantized/u8s8", "graph_digest", "0" * 64, f"digest {'0' * 64}"),
    ],
)
def test_a_file_that_says_another_origin_is_named(proven, home, step, entry, value, said):
    old = Store(home / "w").get(proven.steps[step].id)
    model = onnxfile.load(old.path / "model.onnx")
    onnxfile.set_metadata(model, {**onnxfile.metadata(model), entry: value})
    onnxfile.save(model, old.path / "model.onnx")
    folder = reseal(old.path, json.loads(json.dumps(old.manifest)))
    code, facts = verify(home, f"{step}/{folder.name}")
    (fault,) = facts["faults"]
    assert code == 6 and fault["file"] == "model.onnx" and said in fault["found"]


@pytest.mark.parametrize("what", ["model", "latency", "accuracy"])
def test_a_figure_that_is_not_that_of_its_file_is_named(proven, home, what):
    """A measurement of another file, or another median or accuracy than the samples give, well sealed."""
    old = Store(home / "w").get(proven.steps[LAST].id)
    values = json.loads(json.dumps(old.manifest))
    if what == "model":
        result = json.loads((old.path / lineage.RESULT).read_text())
        result["model"]["sha256"] = "0" * 64
        (old.path / lineage.RESULT).write_text(json.dumps(result))
    elif what == "latency":
        values["metrics"]["latency_p50_ms"] *= 0.9
    else:
        values["metrics"]["right_test"] += 1
    folder = reseal(old.path, values)
    code, facts = verify(home, f"{LAST}/{folder.name}")
    (fault,) = facts["faults"]
    expected = {"model": "measured a model", "latency": "latency_p50_ms", "accuracy": "right_test"}[what]
    assert code == 6 and expected in fault["found"]
    if what == "model":
        assert proven.steps["export/onnx-int8"].manifest["files"]["model.onnx"]["sha256"] in fault["expected"]


def test_other_source_files_are_named(proven, home):
    old = Store(home / "w").get(proven.steps["data"].id)
    values = json.loads(json.dumps(old.manifest))
    values["params"]["sources"] = "0" * 64
    values["key"] = material_key(material(values))
    folder = reseal(old.path, values)
    code, facts = verify(home, f"data/{folder.name}")
    (fault,) = facts["faults"]
    assert code == 6 and fault["file"] == "source files of digits" and fault["expected"] == f"SHA-256 {'0' * 64}"


def test_a_checkpoint_that_is_gone_is_said_and_one_that_changed_is_named(proven, tmp_path):
    teacher = proven.steps["teacher"]
    file = tmp_path / "teacher.safetensors"
    shutil.copyfile(teacher.path / "weights.safetensors", file)
    recipe = {**teacher.manifest["recipe"], "teacher": {"checkpoint": file.name}}
    params = {"model": "resnet8", "checkpoint_sha256": sha256_file(file)}
    artifact = type(teacher)(teacher.path, {**teacher.manifest, "params": params, "recipe": recipe})
    (as_it_was,) = look([artifact], Places((tmp_path,), None, ()))
    flip(file)
    (changed,) = look([artifact], Places((tmp_path,), None, ()))
    file.unlink()
    (gone,) = look([artifact], Places((tmp_path,), None, ()))
    assert as_it_was.found == as_it_was.expected and as_it_was.fault is None
    assert changed.fault is not None and params["checkpoint_sha256"] in changed.fault.expected
    assert gone.fault is None and not gone.found and "not found" in gone.why


def test_the_median_is_recomputed_from_every_sample(proven):
    with np.load(proven.steps[LAST].path / lineage.SAMPLES) as samples:
        assert len(samples[lineage.SERIES]) == proven.steps[LAST].metrics["n_latency"]
