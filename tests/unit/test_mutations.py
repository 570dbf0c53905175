"""The mutation suite: one thing is made wrong in the files of a real chain, and the parity ladder must name that thing.

Every mutation lies in the artifact's own files (or is what a device would answer) and goes through what `edgekd parity` runs.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import typer
from onnx import numpy_helper

from edgekd import onnxfile, onnxrun, registry
from edgekd.analysis import diverging, ladder
from edgekd.analysis.facing import Preprocessing
from edgekd.artifact import Artifact
from edgekd.commands.climb import climb
from edgekd.commands.parity import ParityOptions, parity
from edgekd.commands.parity_parts import lay
from edgekd.commands.rungs import Parts, Stored
from edgekd.errors import CheckFailed, IntegrityError, UsageError
from edgekd.store import Store
from tests.onnxtoys import ROLES, chain
from tests.tolerances import MUTATED_OWN_DB, TOY_LOST_DB, TOY_OWN_INT8_DB

IMAGES = 100
STEPS = ("data", "student", "graph", "quantized/u8s8", "export/onnx", "export/onnx-int8")


def _folders() -> dict[str, Path]:
    made = chain()
    parts = (made.data, made.student, made.graph, made.quantized, made.exports["onnx"], made.exports["onnx-int8"])
    return {step: part.path for step, part in zip(STEPS, parts, strict=True)}


def _artifacts(root: Path) -> dict[str, Artifact]:
    """The chain's folders as a run's artifacts."""
    params = {step: {"roles": ROLES.model_dump(), "parity": {}} for step in STEPS}
    params["graph"] |= {"opset": 18, "simplify": "onnxsim"}
    params["student"]["normalize"] = "dataset"
    params["export/onnx"]["scheme"], params["export/onnx-int8"]["scheme"] = "none", "u8s8"
    inputs = {"graph": {"student": {"id": "student/11111111-22222222"}}}
    return {
        step: Artifact(root / step, {"step": step, "params": params[step], "inputs": inputs.get(step, {}), "files": {}})
        for step in STEPS
    }


@cache
def _trace() -> onnx.ModelProto:
    """The clean network traced anew, once: every climb would make the same."""
    retrace = lay({step: replace(a, path=_folders()[step]) for step, a in _artifacts(Path()).items()}).retrace
    assert retrace is not None
    return retrace()


@pytest.fixture
def run(tmp_path: Path) -> dict[str, Artifact]:
    """A copy of the chain that a test may spoil."""
    for step, folder in _folders().items():
        shutil.copytree(folder, tmp_path / step)
    return _artifacts(tmp_path)


def _parts(run: dict[str, Artifact]) -> Parts:
    return replace(lay(run, IMAGES), retrace=_trace)


def _edit(path: Path, change: Callable[[onnx.ModelProto], None]) -> None:
    model = onnxfile.load(path)
    change(model)
    onnxfile.save(model, path)


def _told(path: Path, **facts: str) -> None:
    """Say something else inside a file."""
    _edit(path, lambda model: onnxfile.set_metadata(model, {**onnxfile.metadata(model), **facts}) and None)


def _json(path: Path, change: Callable[[dict], object]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def _initializer(model: onnx.ModelProto, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    old = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array(np.array(change(old), old.dtype, order="C"), name))


def _weights(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[onnx.ModelProto], None]:
    return lambda model: _initializer(model, name, change)


def _transposed(name: str) -> Callable[[onnx.ModelProto], None]:
    return _weights(name, lambda w: w.swapaxes(2, 3))


def _scaled(tensor: str, factor: float) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        node = next(n for n in model.graph.node if n.op_type == "QuantizeLinear" and n.input[0] == tensor)
        _initializer(model, node.input[1], lambda scale: scale * np.float32(factor))

    return change


def _without(relu: str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        node = next(node for node in model.graph.node if node.output[0] == relu)
        assert node.op_type == "Relu"
        node.op_type = "Identity"

    return change


def _per_tensor(weight: str) -> Callable[[onnx.ModelProto], None]:
    """Requantized with one scale for all channels."""

    def change(model: onnx.ModelProto) -> None:
        parts = {
            t.name.removeprefix(f"{weight}_"): t for t in model.graph.initializer if t.name.startswith(f"{weight}_")
        }
        scale = numpy_helper.to_array(parts["scale"])
        values = numpy_helper.to_array(parts["quantized"]) * scale[:, None, None, None]
        one = np.float32(np.abs(values).max() / 127)
        new = {"scale": one, "zero_point": np.int8(0), "quantized": np.rint(values / one).astype(np.int8)}
        for part, array in new.items():
            parts[part].CopyFrom(numpy_helper.from_array(np.asarray(array), f"{weight}_{part}"))
        node = next(node for node in model.graph.node if node.input[0] == f"{weight}_quantized")
        del node.attribute[:]

    return change


def _reordered(name: str) -> Callable[[onnx.ModelProto], None]:
    """The classifier's rows in another order: weights and bias."""

    def change(model: onnx.ModelProto) -> None:
        node = next(node for node in model.graph.node if node.op_type == "Gemm")
        for tensor in node.input[1:]:
            _initializer(model, tensor, lambda w: np.roll(w, 1, axis=0))

    return change


GRAPH, INT8 = "graph", "quantized/u8s8"
INSIDE = "float32 [batch, channels, height, width]; {} order when 3 channels; {}"
RIGHT = "(pixel / 255 - mean) / std"


@dataclass(frozen=True)
class Mutation:
    """What is spoiled, in which step, and what must be named: the first rung that fails, the rung at fault, and the tensor
    or weight.
    """

    step: str
    spoil: Callable[[Path], object]
    fails: str
    at_fault: str
    named: str = ""


def _model(step: str, change: Callable[[onnx.ModelProto], None], at_fault: str = "", named: str = "") -> Mutation:
    return Mutation(step, lambda folder: _edit(folder / "model.onnx", change), step, at_fault or step, named)


CONVS = ("layer1.0.conv1", "layer2.0.conv2", "layer3.0.conv1")
MUTATIONS = {
    "mean and std of another data set, inside": Mutation(
        "export/onnx",
        lambda f: _told(f / "model.onnx", mean="[0.485, 0.456, 0.406]", std="[0.229, 0.224, 0.225]"),
        "input",
        "input",
        "export/onnx: model.onnx",
    ),
    "one mean a hundredth off, beside": Mutation(
        "export/onnx-int8",
        lambda f: _json(f / "model.json", lambda v: v["normalize"].update(mean=[0.5, 0.46, 0.4])),
        "input",
        "input",
        "export/onnx-int8: model.json",
    ),
    "the student's own mean is not the data's": Mutation(
        "student",
        lambda f: _json(f / "model.json", lambda v: v["normalize"].update(mean=[0.4, 0.45, 0.5])),
        "input",
        "input",
        "student: model.json",
    ),
    "BGR, inside": Mutation(
        "graph", lambda f: _told(f / "model.onnx", input=INSIDE.format("BGR", RIGHT)), "input", "input", "BGR"
    ),
    "unscaled pixels, inside": Mutation(
        INT8,
        lambda f: _told(f / "model.onnx", input=INSIDE.format("RGB", "(pixel - mean) / std")),
        "input",
        "input",
        "pixel / 1",
    ),
    "nothing said of the input": Mutation(
        GRAPH, lambda f: _told(f / "model.onnx", input=""), "input", "input", "nothing"
    ),
    "BGR, in the first weights": _model(GRAPH, _weights("conv1.weight", lambda w: w[:, ::-1]), "input", "BGR"),
    "label order, inside": Mutation(
        GRAPH,
        lambda f: _told(f / "model.onnx", classes='["dog", "cat", "big truck"]'),
        "labels",
        "labels",
        "graph: model.onnx: the data's classes in another order",
    ),
    "label order, beside": Mutation(
        "export/onnx",
        lambda f: (f / "labels.txt").write_text("big truck\ndog\ncat\n"),
        "labels",
        "labels",
        "export/onnx: labels.txt: the data's classes in another order",
    ),
    "label order, in model.json": Mutation(
        INT8,
        lambda f: _json(f / "model.json", lambda v: v.update(classes=v["classes"][::-1])),
        "labels",
        "labels",
        "quantized/u8s8: model.json",
    ),
    "a label too few": Mutation(
        "export/onnx", lambda f: (f / "labels.txt").write_text("cat\ndog\n"), "labels", "labels", "2 classes"
    ),
    "label order, in the data": Mutation(
        "data",
        lambda f: np.save(f / "labels_test.npy", (np.load(f / "labels_test.npy") + 1) % 3),
        "labels",
        "labels",
        "answers of class 0",
    ),
    "label order, in the classifier": _model(GRAPH, _reordered("classifier"), "labels", "another order of classes"),
    **{
        f"transposed weights of {conv}, {step}": _model(step, _transposed(f"{conv}.weight"), named=f"{conv}.weight")
        for conv, step in (*((conv, GRAPH) for conv in CONVS), (CONVS[1], "export/onnx"))
    },
    **{
        f"transposed int8 weights of {conv}": _model(
            INT8, _transposed(f"{conv}.weight_quantized"), named=f"{conv}.weight"
        )
        for conv in CONVS
    },
    **{f"{relu} dropped": _model(GRAPH, _without(relu), named=relu) for relu in ("relu", "relu_2", "relu_5")},
    **{
        f"stale scale of {tensor}, times {factor}": _model(INT8, _scaled(tensor, factor), named=tensor)
        for tensor in ("input", "relu", "relu_3", "getitem_12", "view")
        for factor in (4, 0.25)
    },
    "stale scale in the shipped file": _model("export/onnx-int8", _scaled("relu_2", 0.25), named="relu_2"),
    **{f"{conv} per tensor": _model(INT8, _per_tensor(f"{conv}.weight"), named=f"{conv}.weight") for conv in CONVS},
}


def test_the_clean_chain_passes(run):
    """And by how much, on every rung and tensor: what parts it from the mutations."""
    rungs = climb(_parts(run), tensors=True)
    assert [rung.name for rung in rungs] == ["labels", "input", "torch", *STEPS[2:]]
    assert [rung.failures for rung in rungs] == [()] * len(rungs)
    assert {rung.state for rung in rungs} == {"ok", "origin"}
    quantized = next(rung for rung in rungs if rung.name == INT8)
    assert len(quantized.tensors) > 10
    assert min(tensor["own_db"] for tensor in quantized.tensors) > TOY_OWN_INT8_DB > diverging.OWN_INT8_DB
    assert max(tensor["lost_db"] or 0 for tensor in quantized.tensors) < TOY_LOST_DB < diverging.LOST_DB
    for rung in rungs:
        if rung.name in (GRAPH, "export/onnx", "export/onnx-int8"):
            assert min(tensor["own_db"] for tensor in rung.tensors) > diverging.OWN_FP32_DB + 20
        json.dumps(rung.json(), allow_nan=False)


@pytest.mark.parametrize("name", sorted(MUTATIONS))
def test_a_mutation_is_caught_and_attributed(name, run):
    mutation = MUTATIONS[name]
    mutation.spoil(run[mutation.step].path)
    rungs = climb(_parts(run))
    found = ladder.first_failing(rungs)
    assert found is not None, "not caught"
    assert (found.name, found.attributed) == (mutation.fails, mutation.at_fault), found.failures
    if found.first is not None:
        assert mutation.named in (found.first["tensor"], *found.first["weights"]), found.failures
    else:
        assert mutation.named in " ".join(found.failures)
    assert mutation.at_fault in ("input", "labels") or found.first is not None, "no tensor named"
    if found.attributed == GRAPH:
        assert found.first["own_db"] < MUTATED_OWN_DB < diverging.OWN_FP32_DB
        others = [one for one in found.tensors if one["tensor"] != found.first["tensor"]]
        assert all(one["own_db"] > diverging.OWN_FP32_DB for one in others), "an innocent tensor is accused"


@pytest.mark.parametrize(
    ("fed", "words"),
    [
        (Preprocessing((0.5, 0.45, 0.4), (0.25, 0.2, 0.3), "BGR"), "BGR"),
        (Preprocessing((0.5, 0.45, 0.4), (0.25, 0.2, 0.3), divisor=1.0), "0 to 255"),
        (Preprocessing((0.0,) * 3, (1.0,) * 3), "not normalised"),
        (Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), "imagenet"),
    ],
)
@pytest.mark.parametrize("target", ["onnx", "onnx-int8"])
def test_a_device_that_is_fed_otherwise_is_seen_by_its_answers(fed, words, target, run):
    parts = _parts(run)
    path = run[f"export/{target}"].path / "model.onnx"
    answers = onnxrun.infer(onnxrun.session(path), fed(parts.images)).astype(np.float16)
    found = _climbed_device(parts, target, answers)
    assert (found.state, found.attributed) == ("fails", "input"), found.failures
    assert words in found.failures[-1]


@pytest.mark.parametrize("target", ["onnx", "onnx-int8"])
def test_a_device_with_another_order_of_classes_is_seen_by_its_answers(target, run):
    parts = _parts(run)
    right = onnxrun.infer(onnxrun.session(run[f"export/{target}"].path / "model.onnx"), _given(parts))
    assert _climbed_device(parts, target, right.astype(np.float16)).state == "ok"
    found = _climbed_device(parts, target, right[:, [2, 0, 1]].astype(np.float16))
    assert (found.state, found.attributed) == ("fails", "labels")
    damaged = _climbed_device(parts, target, (right * [1, 1, -1]).astype(np.float16))
    assert (damaged.state, damaged.attributed) == ("fails", f"bench/{target}@board")


def test_kept_answers_of_the_network_trained_rounded_are_held_to_the_bounds_of_training(run):
    """Not to those of a calibrated file: its own float weights are another network."""
    parts = _parts(run)
    right = onnxrun.infer(onnxrun.session(run["graph"].path / "model.onnx"), _given(parts))
    off = right + np.random.default_rng(0).normal(scale=right.std() * 10 ** (-22 / 20), size=right.shape)  # 22 dB
    of_test = parts.rows >= 0
    kept = Stored("qat", "graph", "fake_quant", parts.rows[of_test], off[of_test].astype(np.float16), "kept")
    found = climb(replace(parts, rungs=[*parts.rungs, kept]))[-1]
    assert found.expected == "agreement >= 95 % and SQNR >= 15 dB"


def _given(parts: Parts) -> np.ndarray:
    return Preprocessing(*parts.norm)(parts.images)


def _climbed_device(parts: Parts, target: str, answers: np.ndarray) -> ladder.Rung:
    of_test = parts.rows >= 0
    scheme = "none" if target == "onnx" else "u8s8"
    device = Stored(
        f"bench/{target}@board", f"export/{target}", scheme, parts.rows[of_test], answers[of_test], "a board"
    )
    return climb(replace(parts, rungs=[*parts.rungs, device]))[-1]


QUANTIZERS = registry.plugins("quantizers").items()
ASKED = {"mixed": {"max_drop_pp": 10.0}}  # what 40 validation images can tell


@pytest.mark.parametrize(
    ("use", "scheme", "args"),
    [
        *((use, scheme, ASKED.get(use, {})) for use, found in QUANTIZERS for scheme in found.attributes["schemes"]),
        *(("ptq", "u8s8", {"calibrate": method}) for method in ("minmax", "percentile", "mse")),
        ("ptq", "u8s8", {"bias_correction": False}),
        ("ptq", "u8s8", {"equalize": True}),
    ],
)
def test_whatever_a_quantizer_makes_is_clean(use, scheme, args, run, tmp_path):
    """What sounds like a fault and is none: other calibrations, balanced layers, layers left in float, half precision."""
    out = tmp_path / "made"
    out.mkdir()
    chain().run_quantize(out, use=use, scheme=scheme, args=args)
    made = Artifact(out, {**run[INT8].manifest, "step": f"quantized/{scheme}"})
    steps = {step: run[step] for step in STEPS[:3]} | {made.step: made}
    rungs = climb(replace(lay(steps, IMAGES), retrace=_trace), tensors=True)
    assert [rung.failures for rung in rungs] == [()] * len(rungs)
    assert rungs[-1].name == made.step
    assert rungs[-1].tensors


def _sealed(run: dict[str, Artifact], workspace: Path) -> dict[str, Artifact]:
    """The folders as the current run of a workspace."""
    store, sealed = Store(workspace), {}
    for step, artifact in run.items():
        scratch = store.begin(step, "1" * 64)
        shutil.copytree(artifact.path, scratch.out, dirs_exist_ok=True)
        roles = {
            "data": "data",
            "source": GRAPH if step == "export/onnx" else INT8,
            "student": "student",
            "graph": GRAPH,
        }
        wanted = {"student": ("data",), GRAPH: ("data", "student"), INT8: ("data", "graph")}.get(step, ("source",))
        inputs = {role: sealed[roles[role]].manifest for role in wanted if step != "data"}
        named = {
            role: {"id": sealed[roles[role]].id, **{key: m[key] for key in ("step", "key", "digest")}}
            for role, m in inputs.items()
        }
        facts = {"metrics": {}, "inputs": named, "params": artifact.manifest["params"]}
        sealed[step] = store.seal(scratch, step, "1" * 64, tuple(p.name for p in artifact.path.iterdir()), facts)
    (workspace / "runs").mkdir()
    record = {"name": "toy", "recipe": {}, "recipe_dir": None, "steps": [[step, a.id] for step, a in sealed.items()]}
    (workspace / "runs" / "toy.json").write_text(json.dumps(record))
    (workspace / "HEAD").write_text("toy")
    return sealed


def _command(workspace: Path, **more: Any) -> None:
    typed = {"recipe": None, "source": None, "images": 40, "tensors": False, "threads": 1, "json": True}
    parity(ParityOptions(**{**typed, "workspace": workspace, **more}))


def test_the_command_climbs_the_current_run(run, tmp_path, capsys):
    sealed = _sealed(run, tmp_path / "ws")
    _command(tmp_path / "ws")
    said = json.loads(capsys.readouterr().out)
    assert said["schema_version"] == 1
    assert said["artifacts"] == {step: artifact.id for step, artifact in sealed.items()}
    assert [rung["name"] for rung in said["rungs"]] == ["labels", "input", "torch", *STEPS[2:]]
    assert said["rungs"][2]["n"] == 56
    _command(tmp_path / "ws", source="export/onnx", json=False, tensors=True)
    shown = capsys.readouterr().out
    assert "graph, tensor by tensor against torch" in shown
    assert INT8 not in shown
    assert shown.splitlines()[-1].startswith("next: edgekd eval")


def test_the_command_names_the_first_rung_and_tensor(run, tmp_path, capsys):
    MUTATIONS["stale scale of relu_3, times 4"].spoil(run[INT8].path)
    _sealed(run, tmp_path / "ws")
    with pytest.raises(CheckFailed, match=r"parity: quantized/u8s8: .*first diverging tensor relu_3") as caught:
        _command(tmp_path / "ws", json=False)
    assert caught.value.exit_code == 3
    assert "edgekd quantize --force" in caught.value.hint
    assert "quantized/u8s8 fails" in capsys.readouterr().out
    with pytest.raises(typer.Exit) as stopped:
        _command(tmp_path / "ws")
    assert stopped.value.exit_code == 3
    said = json.loads(capsys.readouterr().out)
    rung = next(rung for rung in said["rungs"] if rung["name"] == INT8)
    assert (rung["attributed"], rung["first"]["tensor"]) == (INT8, "relu_3")
    assert said["error"]["reason"] == "check_failed"


def test_a_mutated_payload_is_found_by_its_hash_first(run, tmp_path):
    sealed = _sealed(run, tmp_path / "ws")
    path = sealed[INT8].path / "model.onnx"
    path.chmod(0o644)
    _edit(path, _scaled("relu", 4))
    with pytest.raises(IntegrityError, match=r"model\.onnx has other bytes than were sealed"):
        _command(tmp_path / "ws")


def test_nothing_to_climb_says_what_to_type(tmp_path):
    with pytest.raises(UsageError, match="edgekd run"):
        _command(tmp_path / "ws")
