"""Stage `qat`: what it writes, that the int8 file does what was trained, that a stopped run ends with the same bytes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import SMALLEST, seeded, settled
from safetensors.torch import load_file

from edgekd import agreement, models, onnxfile, predictions, profiles, registry
from edgekd.artifact import Artifact
from edgekd.errors import RecipeError, StageFailed
from edgekd.fit import loop
from edgekd.fit.fakequant import fake_quantized
from edgekd.models.fold import fold_batchnorm
from edgekd.onnxrun import infer, session, values
from edgekd.params import DistillParams, GraphParams, QatParams, QuantizeParams, Roles, StudentParams, TeacherParams
from edgekd.plan import plan
from edgekd.quantizers.base import Quantizer, Range
from edgekd.recipe import Fit, load
from edgekd.stages import distill, evaluate, graph, placement, qat, quantize, simplification, tracing, train
from edgekd.stages.base import RunContext
from tests.tolerances import QAT_INT8_SQNR_DB, QAT_NEARER_DB

FIT = Fit(epochs=12, batch_size=20, lr=0.05, schedule="one-cycle")
SLOW = Fit(epochs=3, batch_size=20, lr=0.002)
assert SMALLEST


def params(use: str = "kd", **changes: Any) -> QatParams:
    given = {"model": "resnet8", "fit": SLOW, "distill": DistillParams(use=use, cached_views=None), "roles": Roles()}
    more = {"seed": 3, "scheme": "u8s8", "calibrate": "minmax", "images": 40, "learn_ranges": True}
    return QatParams(**(given | more | changes))


@pytest.fixture
def inputs(
    brightness: Artifact, tmp_path: Path, training_context: RunContext, as_artifact: Callable[..., Artifact]
) -> dict[str, Artifact]:
    made = {"data": brightness}
    settings = {"roles": Roles(), "seed": 3, "fit": FIT}
    method = DistillParams(use="kd", cached_views=None)
    for role, stage, given in (
        ("teacher", train, TeacherParams(model="resnet14", **settings)),
        ("student", distill, StudentParams(model="resnet8", distill=method, **settings)),
    ):
        out = tmp_path / role
        out.mkdir()
        context = replace(training_context, resume=tmp_path / f"{role}-resume")
        made[role] = as_artifact(out, role, stage.run(given, made, out, context).metrics)
    return made


def made(
    given: QatParams, inputs: dict[str, Artifact], out: Path, context: RunContext, as_artifact: Callable[..., Artifact]
) -> Artifact:
    out.mkdir()
    qat.check(given, replace(context, classes=3, teacher_model="resnet14"))
    return as_artifact(out, "qat", qat.run(given, inputs, out, context).metrics)


@pytest.mark.parametrize(("use", "scheme"), [("kd", "u8s8"), ("rtk", "u8s8"), ("ce", "u8s8"), ("kd", "s8-trt")])
def test_the_file_decides_as_the_network_that_was_trained(
    use: str,
    scheme: str,
    inputs: dict[str, Artifact],
    tmp_path: Path,
    training_context: RunContext,
    as_artifact: Callable[..., Artifact],
) -> None:
    trained = made(params(use, scheme=scheme), inputs, tmp_path / "qat", training_context, as_artifact)
    steps = {"data": inputs["data"], "student": trained}
    for role, stage, given in (
        ("graph", graph, GraphParams(roles=Roles(), golden=8)),
        ("quantized", quantize, QuantizeParams(scheme=scheme, images=20, roles=Roles(), seed=3)),
    ):
        out = tmp_path / role
        out.mkdir()
        shown = {**steps, "qat": trained} if role == "quantized" else steps
        steps[role] = as_artifact(out, role, stage.run(given, shown, out, training_context).metrics)
    ranges = json.loads((trained.path / "ranges.json").read_text(encoding="utf-8"))["ranges"]
    model = onnxfile.load(steps["quantized"].path / "model.onnx")
    constants = {t.name: onnxfile_array(t) for t in model.graph.initializer}
    stored = {
        placement._tensor(n): (float(constants[n.input[1]]), int(constants[n.input[2]]))
        for n in model.graph.node
        if n.op_type == "QuantizeLinear"
    }
    assert stored == {name: (own["scale"], own["zero_point"]) for name, own in ranges.items()}
    rounded = predictions.load(trained.path).of("test")
    shipped = predictions.load(steps["quantized"].path).of("test")
    assert np.array_equal(rounded.answer, shipped.answer)
    assert agreement.sqnr_db(rounded.logits, shipped.logits) > QAT_INT8_SQNR_DB


def onnxfile_array(tensor: Any) -> np.ndarray:
    from onnx import numpy_helper

    return numpy_helper.to_array(tensor)


def test_what_is_written(
    inputs: dict[str, Artifact], tmp_path: Path, training_context: RunContext, as_artifact: Callable[..., Artifact]
) -> None:
    trained = made(params(), inputs, tmp_path / "qat", training_context, as_artifact)
    said = json.loads((trained.path / "model.json").read_text(encoding="utf-8"))
    before = json.loads((inputs["student"].path / "model.json").read_text(encoding="utf-8"))
    assert said == {**before, "folded": True}
    folded = fold_batchnorm(models.build("resnet8", classes=3))
    assert sorted(load_file(trained.path / "weights.safetensors")) == sorted(folded.state_dict())
    assert trained.metrics["rounded_weights"] == 10 and trained.metrics["epochs"] == 3
    assert len(json.loads((trained.path / "history.json").read_text(encoding="utf-8"))) == 3
    network, _, _ = evaluate.read_network(trained, evaluate.open_data(inputs["data"], Roles()))
    assert torch.equal(network.conv1.weight, load_file(trained.path / "weights.safetensors")["conv1.weight"])


def test_training_that_comes_apart_fails_with_what_to_type(
    inputs: dict[str, Artifact],
    tmp_path: Path,
    training_context: RunContext,
    as_artifact: Callable[..., Artifact],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fit = qat.fit

    def broken(*given: Any) -> Any:
        result = fit(*given)
        with torch.no_grad():
            for parameter in result.network.parameters():
                parameter.zero_()
        return result

    monkeypatch.setattr(qat, "fit", broken)
    with pytest.raises(StageFailed, match=r"came apart: of 40 calibration images .* % are right") as caught:
        made(params(), inputs, tmp_path / "qat", training_context, as_artifact)
    assert caught.value.hint == "--set qat.lr=0.0005"


def test_a_stopped_run_ends_with_the_same_bytes(
    inputs: dict[str, Artifact],
    tmp_path: Path,
    training_context: RunContext,
    as_artifact: Callable[..., Artifact],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = made(params("rtk"), inputs, tmp_path / "whole", training_context, as_artifact)
    cut = replace(training_context, resume=tmp_path / "cut-resume")
    saved = loop.checkpoint.save

    def stop(folder: Path, epoch: int, *state: Any) -> None:
        saved(folder, epoch, *state)
        if epoch == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop.checkpoint, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        made(params("rtk"), inputs, tmp_path / "cut", cut, as_artifact)
    monkeypatch.setattr(loop.checkpoint, "save", saved)
    resumed = made(params("rtk"), inputs, tmp_path / "resumed", cut, as_artifact)
    for name in ("weights.safetensors", "ranges.json", "predictions.npz"):
        assert (whole.path / name).read_bytes() == (resumed.path / name).read_bytes()


@pytest.mark.parametrize("use", ["simkd", "kdfm"])
def test_a_method_that_ships_layers_is_refused_before_work(use: str, training_context: RunContext) -> None:
    with pytest.raises(RecipeError, match="ships layers of its own"):
        qat.check(params(use), training_context)


@pytest.mark.parametrize(
    ("name", "scheme"),
    [*((SMALLEST[family], "u8s8") for family in sorted(SMALLEST)), ("wrn_16_2", "u8s8")]
    + [(name, "s8-trt") for name in ("resnet8", "wrn_16_2", "mobilenetv2_05", "vgg8")],
)
def test_every_rounded_tensor_of_each_family_is_found(name: str, scheme: str, tmp_path: Path) -> None:
    """And the network that rounds there answers as the file does, where it is run as it is written: onnxruntime rounds the float biases of s8-trt."""
    random = seeded()
    images = torch.randn(8, 3, 32, 32, generator=random)
    network = settled(models.build(name, classes=10, generator=random), images, random)
    folded = fold_batchnorm(network, across=True)
    plain, rounded = tmp_path / "graph.onnx", tmp_path / "quantized.onnx"
    model = onnxfile.strip(tracing.trace(folded, 3, (32, 32), onnxfile.OPSET))
    onnxfile.save(simplification.simplify(model, "onnxsim", images.numpy())[0], plain)
    quantizer = registry.construct("quantizers", "ptq", {"calibrate": "minmax", "bias_correction": False})
    assert isinstance(quantizer, Quantizer)
    quantizer.quantize(plain, rounded, calibration=[images.numpy()], scheme=scheme)
    found = placement.placement(folded, plain, rounded, images.numpy())
    asked = [n for n in onnxfile.load(rounded).graph.node if n.op_type == "QuantizeLinear"]
    assert len(found.nodes) == len(asked) > 5
    made = fake_quantized(network, {}, found.activations, found.weights, learned=False, biases=found.biases).eval()
    with torch.no_grad():
        ours, whole = made(images).numpy(), folded(images).numpy()
    file = values(rounded.read_bytes(), {onnxfile.INPUT: images.numpy()}, [onnxfile.OUTPUT])[0]
    assert agreement.sqnr_db(ours, file) > agreement.sqnr_db(whole, file) + QAT_NEARER_DB


def test_values_that_share_their_steps_in_the_file_share_them_in_training(tmp_path: Path) -> None:
    """The file of a network with max pooling takes the ranges that its training gives."""
    random = seeded()
    images = torch.randn(8, 3, 32, 32, generator=random)
    network = settled(models.build("vgg8", classes=10, generator=random), images, random)
    folded = fold_batchnorm(network)
    plain, rounded, again = (tmp_path / f"{name}.onnx" for name in ("graph", "quantized", "again"))
    onnxfile.save(onnxfile.strip(tracing.trace(folded, 3, (32, 32), onnxfile.OPSET)), plain)
    quantizer = registry.construct("quantizers", "ptq", {"calibrate": "minmax", "bias_correction": False})
    assert isinstance(quantizer, Quantizer)
    quantizer.quantize(plain, rounded, calibration=[images.numpy()], scheme="u8s8")
    found = placement.placement(folded, plain, rounded, images.numpy())
    assert [activation for activation in found.activations if activation.like is not None]
    made = fake_quantized(network, {}, found.activations, found.weights, learned=True, biases=found.biases)
    for name, ratio in made.named_parameters():
        if name.endswith("ratio"):
            ratio.data.uniform_(-0.2, 0.2, generator=random)
    steps = made.steps()
    ranges = {name: Range(*steps[node]) for name, node in found.nodes.items()}
    quantizer.quantize(plain, again, calibration=[images.numpy()], scheme="u8s8", ranges=ranges)
    with torch.no_grad():
        ours, whole = made.eval()(images).numpy(), folded(images).numpy()
    file = infer(session(again), images.numpy())
    assert agreement.sqnr_db(ours, file) > agreement.sqnr_db(whole, file) + QAT_NEARER_DB


def test_a_tensor_that_the_network_lacks_is_named(tmp_path: Path) -> None:
    random = seeded()
    images = torch.randn(8, 3, 16, 16, generator=random)
    networks = [settled(models.build("resnet8", classes=10, generator=seeded(n)), images, random) for n in (1, 2)]
    plain, rounded = tmp_path / "graph.onnx", tmp_path / "quantized.onnx"
    folded = [fold_batchnorm(network) for network in networks]
    onnxfile.save(onnxfile.strip(tracing.trace(folded[0], 3, (16, 16), onnxfile.OPSET)), plain)
    quantizer = registry.construct("quantizers", "ptq", {"calibrate": "minmax", "bias_correction": False})
    assert isinstance(quantizer, Quantizer)
    quantizer.quantize(plain, rounded, calibration=[images.numpy()], scheme="u8s8")
    with pytest.raises(StageFailed, match="is no value of the torch network"):
        placement.placement(folded[1], plain, rounded, images.numpy())


@pytest.mark.parametrize(
    ("changes", "known", "message"),
    [
        ({"images": 61}, {"train_images": 60}, "qat.images: 61 images"),
        (
            {"model": "wrn_16_2", "distill": DistillParams(use="fitnet", args={"hint_layer": 0}, cached_views=None)},
            {"size": (16, 16), "classes": 3, "teacher_model": "wrn_16_2"},
            "no conv1 without the BatchNorm",
        ),
    ],
)
def test_what_training_would_end_with_is_refused_before_it(
    changes: dict[str, Any], known: dict[str, Any], message: str, training_context: RunContext
) -> None:
    with pytest.raises(RecipeError, match=message):
        qat.check(params(**changes), replace(training_context, **known))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["qat.calibrate=auto"], "chooses among files"),
        (["quantize.use=mixed"], "beside qat, whose ranges it has no use for"),
        (["quantize.bias_correction=true"], "beside qat: the network is trained for the file"),
        (["quantize.gates=float"], "beside qat: the network is trained for the file"),
        (["qat.calibrate=guess"], "guess"),
        (["student.onnx=model.onnx"], "which cannot be trained on"),
    ],
)
def test_a_recipe_that_cannot_keep_its_word_is_refused_before_training(settings: list[str], message: str) -> None:
    recipe = load(profiles.shipped("recipes") / "quickstart.yaml", ["qat.epochs=1", *settings])
    with pytest.raises(RecipeError, match=message):
        plan(recipe)


@pytest.mark.parametrize(
    ("settings", "scheme"),
    [
        ([], "u8s8"),
        (["export=[onnx]"], "u8s8"),
        (["export=[onnx, onnx-int8, tensorrt-int8]"], "u8s8"),
        (["export=[onnx, tensorrt-int8, onnx-int8]"], "s8-trt"),
        (["export=[trt]"], "s8-trt"),
        (["export=[tensorrt-int8]", "qat.scheme=u8s8"], "u8s8"),
    ],
)
def test_it_rounds_like_the_first_int8_target_that_it_can(settings: list[str], scheme: str) -> None:
    recipe = load(profiles.shipped("recipes") / "quickstart.yaml", ["qat.epochs=1", *settings])
    assert [step.params.scheme for step in plan(recipe) if isinstance(step.params, QatParams)] == [scheme]


def test_a_recipe_that_names_no_scheme_is_dumped_as_before() -> None:
    recipe = load(profiles.shipped("recipes") / "quickstart.yaml", ["qat.epochs=1"])
    assert recipe.qat is not None and "scheme" not in recipe.qat.model_dump()


def test_the_steps_of_a_recipe_with_qat() -> None:
    recipe = load(profiles.shipped("recipes") / "quickstart.yaml", ["qat.epochs=1", "export=[onnx, onnx-int8]"])
    steps = {step.name: step.inputs for step in plan(recipe)}
    assert steps["qat"] == {"data": "data", "student": "student", "teacher": "teacher"}
    assert steps["graph"] == {"data": "data", "student": "qat"}
    assert steps["quantized/u8s8"] == {"data": "data", "graph": "graph", "qat": "qat"}
