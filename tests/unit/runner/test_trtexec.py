"""The engine `trtexec` over FAKE programs with the options of three versions: command lines, files, cache, errors."""

import json

import numpy as np
import onnx
import pytest
from faketrt import GPU
from faketrtexec import HELPS, write

from edgekd.runner import bundle as bundles
from edgekd.runner import onnxhead
from edgekd.runner.failure import CHECK_FAILED, INTEGRITY, MISSING, STAGE_FAILED, USAGE, VOID, RunnerError
from edgekd.runner.image import Normaliser
from edgekd.runner.loaded import Loaded
from edgekd.runner.runtimes import base, trtexec
from edgekd.runner.runtimes.base import Setting
from edgekd.runner.trt import command, gpu
from edgekd.runner.trt.options import Options
from tests.lintgraphs import half, quantized
from tests.tolerances import TRTEXEC_ANSWERS


@pytest.fixture
def board(bundle, tmp_path, monkeypatch):
    """`board(style, **options)`: a loaded engine; `board.lines()`: what the program was called with; `board.state`."""

    class Board:
        def __init__(self):
            self.folder, self.cache, self.log, self.asked = (
                tmp_path / "bin",
                tmp_path / "cache",
                tmp_path / "log",
                tmp_path / "state",
            )
            self.model = bundle.folder / "model.onnx"
            layer = {"w": bundle.weights.tolist(), "b": bundle.bias.tolist()}
            (tmp_path / "weights.json").write_text(json.dumps(layer))
            self.state()

        def state(self, **values):
            self.asked.write_text(json.dumps(values))

        def put(self, style):
            write(self.folder / "trtexec", style, tmp_path / "weights.json", self.log, self.asked)

        def __call__(self, style="10", **given):
            self.put(style)
            engine = trtexec.Engine()
            engine.load(self.model, Setting("TensorRT", 1, given, self.cache))
            return engine

        def lines(self):
            return [line for line in map(json.loads, self.log.read_text().splitlines()) if "help" not in line]

        def engines(self):
            return sorted(self.cache.glob("tensorrt/*.engine"))

        def golden(self, engine):
            found = bundles.read(bundle.folder)
            return Loaded(found, Normaliser(found.mean, found.std), engine, "board", {}).golden()

    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(gpu, "facts", lambda: dict(GPU))
    return Board()


def images(n):
    return np.random.Generator(np.random.PCG64(1)).normal(size=(n, 1, 8, 8)).astype(np.float32)


@pytest.mark.parametrize("style", HELPS)
def test_answers_and_times_with_the_options_that_it_has(board, bundle, style):
    engine = board(style, max_batch=4)
    wanted = images(9).reshape(9, 64) @ bundle.weights + bundle.bias
    np.testing.assert_allclose(engine.infer(images(9)), wanted, rtol=TRTEXEC_ANSWERS, atol=TRTEXEC_ANSWERS)
    assert [line["shapes"] for line in board.lines()[1:]] == ["input:4x1x8x8", "input:4x1x8x8", "input:1x1x8x8"]
    times = engine.own_times(images(1), 2.5, 70)
    assert times == [[10_000, 250_000, 5_000]] * 70 and engine.settings["timed_by"] == "trtexec"
    assert board.lines()[-1]["duration"] == "3" and ("exposeDMA" in board.lines()[-1]) == (style != "11")
    assert engine.version == {"8.6": "8.6.1", "10": "10.13.3", "11": "11.4.0"}[style]
    assert (
        engine.provider == "TensorRT"
        and engine.batch is None
        and engine.parts == ("host_to_device", "compute", "device_to_host")
    )


PRECISION = {"stronglyTyped", "int8", "fp16"}


@pytest.mark.parametrize(
    ("style", "model", "flags"),
    [
        ("8.6", quantized, {"int8", "fp16"}),
        ("8.6", half, {"fp16"}),
        ("8.6", None, set()),
        ("10", quantized, {"stronglyTyped"}),
        ("10", half, {"stronglyTyped"}),
        ("11", quantized, set()),
        ("11", half, set()),
    ],
)
def test_precision_is_in_the_graph_and_flags_only_where_they_are_needed(board, style, model, flags, tmp_path):
    if model is not None:
        board.model = tmp_path / "other.onnx"
        onnx.save(model(), board.model)
    board(style)
    (line,) = board.lines()
    assert set(line) & PRECISION == flags and "best" not in line
    assert {"skipInference", "buildOnly"} & set(line) == ({"buildOnly"} if style == "8.6" else {"skipInference"})
    shape = "x3x8x8" if model is not None else "x1x8x8"
    assert (line["minShapes"], line["optShapes"], line["maxShapes"]) == tuple(f"input:{n}{shape}" for n in (1, 1, 64))


def test_options_of_the_build_reach_it_and_a_lacking_one_is_said(board):
    board("10", workspace_mib=256, optimization_level=2, tf32=True)
    (line,) = board.lines()
    assert line["memPoolSize"] == "workspace:256" and line["builderOptimizationLevel"] == "2" and "noTF32" not in line
    assert line["timingCacheFile"]
    with pytest.raises(RunnerError) as caught:
        board("11", optimization_level=2)
    assert caught.value.exit_code == MISSING and "no option --builderOptimizationLevel" in caught.value.found


def test_an_engine_is_built_once_and_a_rejected_one_is_not_kept(board, monkeypatch, capsys):
    assert board.golden(board())["disagreements"] == 0
    (good,) = board.engines()
    assert board().settings["engine"] == "built before"
    assert sum("saveEngine" in line for line in board.lines()) == 1
    monkeypatch.setattr(gpu, "facts", lambda: {**GPU, "driver": "newer"})
    board.state(spoil=50.0)
    engine = board()
    assert board.golden(engine)["disagreements"] == 0 and board.engines() == [good]
    assert engine.settings["rolled_back_to"] == good.stem[:12] and "back to the one before" in capsys.readouterr().err
    monkeypatch.setattr(gpu, "facts", lambda: {**GPU, "gpu": "another"})
    with pytest.raises(RunnerError) as caught:
        board.golden(board())
    assert caught.value.exit_code == CHECK_FAILED and board.engines() == [good]


def test_golden_images_go_in_one_file(board):
    engine = board()
    board.golden(engine)
    assert [line["shapes"] for line in board.lines() if "exportOutput" in line] == ["input:4x1x8x8"]


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"fail": "Error Code 10: Internal Error"}, "trtexec: Error Code 10"),
        ({"fail": "Could not allocate 1 GiB"}, "memory ran out"),
    ],
)
def test_a_build_that_fails_says_why_and_leaves_nothing(board, state, words):
    board.state(**state)
    with pytest.raises(RunnerError) as caught:
        board()
    assert caught.value.exit_code == STAGE_FAILED and words in caught.value.found
    assert ("workspace_mib" in caught.value.hint) == ("memory" in words)
    assert not list(board.cache.glob("tensorrt/*"))


@pytest.mark.parametrize("text", ["", "[]", "[{}]", '[{"values": [1, 2, 3]}]', '[{"values": [nan]}]', '{"values": []}'])
def test_answers_that_are_not_as_expected_are_an_error(board, text):
    engine = board()
    board.state(answer=text)
    with pytest.raises(RunnerError) as caught:
        engine.infer(images(2))
    assert caught.value.exit_code == STAGE_FAILED


@pytest.mark.parametrize("text", ["", "{", '[{"latencyMs": 1}]', '[{"h2dMs": 1, "computeMs": "x", "d2hMs": 1}]', "[1]"])
def test_times_that_are_not_as_expected_are_an_error(board, text):
    engine = board()
    board.state(times=text)
    with pytest.raises(RunnerError) as caught:
        engine.own_times(images(1), 1, 1)
    assert caught.value.exit_code == STAGE_FAILED


def test_a_graph_that_could_not_be_recorded_is_an_error_and_no_note(board):
    engine = board(cuda_graph=True)
    assert engine.own_times(images(1), 1, 1) and "useCudaGraph" in board.lines()[-1]
    board.state(no_graph=True)
    with pytest.raises(RunnerError) as caught:
        engine.own_times(images(1), 1, 1)
    assert caught.value.where == "options: cuda_graph"


def test_layers_that_leave_the_dla_void_the_run(board):
    dla = {"Name": "{ForeignNode[conv...fc]}", "LayerType": "DLA"}
    board.state(layers=[dla])
    assert board(dla_core=0).settings["device"] == "DLA core 0"
    assert board.lines()[0]["useDLACore"] == "0" and board.lines()[0]["maxShapes"] == "input:1x1x8x8"
    board.state(layers=[dla, {"Name": "softmax", "LayerType": "SoftMax"}])
    with pytest.raises(RunnerError) as caught:
        board(dla_core=0)
    assert caught.value.exit_code == VOID and "softmax" in caught.value.found
    assert board(dla_core=0, gpu_fallback=True).settings["layers_on_gpu"] == "softmax"


def test_explicit_quantization_and_a_dla_before_11_are_refused(board, tmp_path):
    board.model = tmp_path / "other.onnx"
    onnx.save(quantized(), board.model)
    with pytest.raises(RunnerError) as caught:
        board("10", dla_core=0)
    assert caught.value.exit_code == USAGE and "takes no explicit Q/DQ" in caught.value.found and not board.lines()


def test_no_program_is_exit_5_and_names_the_places(board):
    with pytest.raises(RunnerError) as caught:
        trtexec.Engine()
    assert caught.value.exit_code == MISSING and all(place in caught.value.found for place in command.PLACES)


def test_a_program_that_is_not_trtexec_is_exit_5(board):
    board.put("10")
    (board.folder / "trtexec").write_text("#!/bin/sh\necho hello\n")
    with pytest.raises(RunnerError) as caught:
        trtexec.Engine()
    assert caught.value.exit_code == MISSING and "no option --onnx" in caught.value.found


def test_it_is_found_in_its_usual_folder_too(board, monkeypatch, tmp_path):
    board.put("8.6")
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    monkeypatch.setattr(command, "PLACES", (str(board.folder),))
    assert command.find_program() == str(board.folder / "trtexec")


def test_it_takes_the_place_of_missing_bindings_and_says_so(board, monkeypatch, capsys):
    from importlib import util

    if util.find_spec("tensorrt") is not None:
        pytest.skip("TensorRT's Python bindings are installed")
    name = base.names()["tensorrt"]
    monkeypatch.delitem(__import__("sys").modules, name, raising=False)
    with pytest.raises(RunnerError) as caught:
        base.find("tensorrt")
    assert caught.value.exit_code == MISSING and "trtexec" in caught.value.found and "bindings" in caught.value.found
    board.put("10")
    assert base.find("tensorrt") is trtexec.Engine
    assert "trtexec takes their place" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "version"),
    [("[TensorRT v8601]", "8.6.1"), ("[TensorRT v8502]", "8.5.2"), ("[TensorRT v100300] [b12]", "10.3.0"),
     ("[TensorRT v101303]", "10.13.3"), ("[TensorRT v110400]", "11.4.0"), ("nothing", "unknown")],
)  # fmt: skip
def test_the_version_in_its_first_line(text, version):
    assert command.version_of("&&&& RUNNING TensorRT.trtexec " + text) == version


@pytest.mark.parametrize(
    ("model", "kind"), [(quantized, (True, False)), (half, (False, True)), (lambda: quantized(opset=21), (True, False))]
)
def test_the_head_of_an_onnx_file_is_that_which_onnx_reads(model, kind, tmp_path):
    onnx.save(model(), tmp_path / "m.onnx")
    head = onnxhead.read(tmp_path / "m.onnx")
    first = model().graph.input[0]
    sizes = [d.dim_value if d.HasField("dim_value") else None for d in first.type.tensor_type.shape.dim]
    assert (head.name, list(head.shape), head.kind) == (first.name, sizes, first.type.tensor_type.elem_type)
    assert (head.quantized, head.half) == kind


@pytest.mark.parametrize("content", [b"", b"no", b"\x3a\xff\xff", b"\x3a\x02\x5a\x00"])
def test_what_is_no_onnx_file_is_exit_6(content, tmp_path):
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(RunnerError) as caught:
        onnxhead.read(tmp_path / "m.onnx")
    assert caught.value.exit_code == INTEGRITY


def test_arguments_are_one_word_each_whatever_a_file_is_called(board, tmp_path):
    board.put("10")
    program = command.Program(str(board.folder / "trtexec"))
    head = onnxhead.read(board.model)
    line = program.build(tmp_path / "a b; rm -rf $HOME.onnx", tmp_path / "e", head, Options(), tmp_path / "t")
    assert line[0] == f"--onnx={tmp_path}/a b; rm -rf $HOME.onnx"


def test_a_whole_bench_takes_its_times_and_says_whose_they_are(board, bundle, tmp_path, brief, monkeypatch):
    from edgekd.runner.bench import bench

    board.put("10")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rows = np.arange(40, dtype=np.int64)
    np.save(bundle.folder / "rows.npy", rows)
    bundle.seal(runtime="trtexec", provider="TensorRT", batch=20)
    result = bench(bundles.read(bundle.folder), tmp_path / "out")
    latency = result["latency"]
    assert latency["end_to_end"]["p50_ms"] == pytest.approx(0.265) and not result["includes_preprocess"]
    assert latency["end_to_end"]["n"] >= 64 and result["runtime"]["settings"]["timed_by"] == "trtexec"
    assert result["accuracy"]["n"] == 40 and result["golden"]["disagreements"] == 0
    assert {f"{part}_ns" for part in ("host_to_device", "compute", "device_to_host")} <= set(
        np.load(tmp_path / "out/samples.npz")
    )
    assert list((tmp_path / "cache/edgekd/tensorrt").glob("*.engine"))
