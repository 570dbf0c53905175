"""Stage bench on a board: this machine plays it, behind a link that shares no files. What runs there is the real runner."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from edgekd import boards, errors, profiles, registry
from edgekd.commands import doctor_device, side_by_side
from edgekd.console import Console
from edgekd.runner import state
from edgekd.runner.probe import probe
from edgekd.stages import bench, bench_link
from edgekd.transport import local
from edgekd.transport.base import Completed
from tests.unit.stages import test_bench as here

world = here.world
PARAMS = here.PARAMS.model_copy(update={"device": "cpu", "board": "desk", "transport": "ssh"})


class Board(local.Link):
    """This machine as a board: files are copied, and a run can be cut short."""

    def __init__(self, root):
        super().__init__()
        self.python, self.shares_files, self.root = sys.executable, False, root
        self.ran, self.cleared, self.cut, self.told = [], [], None, {}

    def facts(self):
        return {"root": str(self.root), "free": 2**30, "boot": "b", "python": "3.11"}

    def push(self, folder):
        there = self.root / folder.name
        shutil.rmtree(there, ignore_errors=True)
        shutil.copytree(folder, there)
        self.sent = (3, 2**20)
        return str(there)

    def run(self, argv):
        self.ran.append(list(argv))
        if argv[2] == "probe":
            return Completed(0, json.dumps(self.told), "")
        if self.cut is not None and argv[2] == "bench":
            raise self.cut
        return super().run(argv)

    def clear(self, there):
        self.cleared.append(there)
        shutil.rmtree(there, ignore_errors=True)


@pytest.fixture(scope="session")
def told():
    """What the runner says of this machine; it imports every engine that is here."""
    return json.loads(json.dumps(probe()))


@pytest.fixture
def board(tmp_path, monkeypatch, told):
    """The board `desk` of the user's, of profile cpu; what it said before is forgotten."""
    monkeypatch.setenv("EDGEKD_CONFIG", str(tmp_path / "config"))
    boards.write(boards.Board(name="desk", profile="cpu", host="me@desk"))
    link = Board(tmp_path / "board")
    link.told = told
    monkeypatch.setattr(bench_link, "_board", lambda *args: link)
    monkeypatch.setattr(bench_link, "_told", {})
    return link


@pytest.fixture
def says(board, told):
    """`says(**changed)`: the board's probe says this instead of what this machine is."""

    def say(**changed):
        board.told = {**told, **changed}
        bench_link._told.clear()

    return say


def test_the_whole_way_to_a_board_and_back(world, board):
    result = here.measure(world, PARAMS)
    bundle = json.loads((board.root / "bench" / "bundle" / "bundle.json").read_text())
    assert bundle["images"] == "images_test.npy" and bundle["device_kind"] == "board"
    assert result.metrics["kind"] == "board" and result.metrics["latency_p50_ms"] > 0
    assert sorted(path.name for path in world.out.iterdir()) == ["predictions.npz", "result.json", "samples.npz"]
    assert board.cleared == [board.ran[-1][-1]] and Path(board.cleared[0]).parent == board.root / "runs"


def test_a_lost_connection_keeps_the_folder_and_the_next_run_takes_the_same(world, board):
    board.cut = errors.StageFailed("board me@desk", "connection lost", "", "")
    for _ in range(2):
        with pytest.raises(errors.StageFailed, match="connection lost"):
            here.measure(world, PARAMS)
    assert len({argv[-1] for argv in board.ran if argv[2] == "bench"}) == 1
    assert board.cleared == []


@pytest.mark.parametrize(
    "changed", [{"threads": 2}, {"profile": "quick"}, {"golden_error_to_range": 2e-4}], ids=lambda value: str(value)
)
def test_another_measurement_has_another_folder(world, board, changed):
    board.cut = errors.StageFailed("board", "cut", "", "")
    for params in (PARAMS, PARAMS.model_copy(update=changed)):
        with pytest.raises(errors.StageFailed):
            here.measure(world, params)
    assert len({argv[-1] for argv in board.ran if argv[2] == "bench"}) == 2


def test_after_a_change_of_power_mode_nothing_is_gone_on_with(world, board, says):
    board.cut, folders = errors.StageFailed("board", "cut", "", ""), set()
    for mode in ("0 15W", "1 7W"):
        says(power_mode=mode)
        with pytest.raises(errors.StageFailed):
            here.measure(world, PARAMS)
        folders.add(board.ran[-1][-1])
    assert len(folders) == 2


@pytest.mark.parametrize(("code", "gone"), [(3, True), (4, True), (6, True), (7, False), (5, False)])
def test_what_is_over_is_removed_there_and_what_may_go_on_is_kept(world, board, monkeypatch, code, gone):
    run = Board.run
    answer = Completed(code, "", here.said(code))
    monkeypatch.setattr(Board, "run", lambda self, argv: answer if argv[2] == "bench" else run(self, argv))
    with pytest.raises(errors.EdgekdError) as caught:
        here.measure(world, PARAMS)
    assert caught.value.exit_code == code and bool(board.cleared) == gone


def test_what_is_emulated_has_no_latency(world, board, says):
    says(emulated="/etc/edgekd-emulated")
    metrics = here.measure(world, PARAMS).metrics
    assert metrics["kind"] == "emulated" and bench.EMULATED in metrics["reasons"]
    assert metrics["top1_percent"] > 80
    assert not [name for name in metrics if name.endswith(("_ms", "_per_s")) or "latency" in name]


def test_the_fingerprint_is_the_boards_own(board, says):
    says(
        machine={**state.machine(), "cpu": "Cortex", "board": "Orin"},
        engines={"onnxruntime": "1.27.0"},
        power_mode="1 7W",
    )
    found = bench.fingerprint(PARAMS)
    assert (found["chip"], found["board"], found["power_mode"]) == ("Cortex", "Orin", "1 7W")
    assert found["runtime"] == "onnxruntime 1.27.0"
    assert found["transport"] == f"ssh {registry.find('transport', 'ssh').version}"
    assert "desk" not in str(found)
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("changed", [{"power_mode": "0 15W"}, {"engines": {"onnxruntime": "9"}}, {"emulated": "x"}])
def test_what_makes_another_measurement_changes_the_key(board, says, changed):
    says()
    before = bench.fingerprint(PARAMS)
    says(**changed)
    assert bench.fingerprint(PARAMS) != before


def test_a_runtime_that_the_board_lacks_is_missing_before_work(world, board, says):
    says(
        engines={},
        missing={"onnxruntime": {"found": "No module named 'onnxruntime'", "hint": "pip install onnxruntime"}},
    )
    with pytest.raises(errors.MissingTool, match="device desk: runtime onnxruntime") as caught:
        bench.check(PARAMS, world.context)
    assert "pip install onnxruntime" in caught.value.hint


def test_what_a_board_said_is_asked_again_when_it_is_old(board, monkeypatch):
    bench.fingerprint(PARAMS)
    bench.fingerprint(PARAMS)
    assert len(board.ran) == 1
    monkeypatch.setattr(bench_link, "FRESH_S", -1.0)
    bench.fingerprint(PARAMS)
    assert len(board.ran) == 2


def test_a_board_of_nobody_is_no_board(board):
    with pytest.raises(errors.MissingTool, match="which board"):
        bench_link.link(PARAMS.model_copy(update={"board": None}))


def test_doctor_says_what_a_board_is_and_what_it_lacks(board, says, capsys):
    now = {
        **state.snapshot(),
        "limits_mhz": {"cpu0": [100.0, 1500.0]},
        "temperature_c": {"cpu": 91.0},
        "load_average": [0.1],
    }
    says(machine={**state.machine(), "board": "NVIDIA Jetson Orin Nano"}, state=now, power_mode="1 7W")
    doctor_device.doctor_device("desk", json=True)
    found = {row["what"]: row for row in json.loads(capsys.readouterr().out)["findings"]}
    assert "NVIDIA Jetson Orin Nano" in found["board"]["found"] and found["power mode"]["found"] == "1 7W"
    assert found["clocks"]["state"] == "warn" and "jetson_clocks" in found["clocks"]["fix"]
    assert found["temperature"]["state"] == "warn" and "91.0 C" in found["temperature"]["found"]
    for name in ("governor", "memory", "python", "numpy", "onnxruntime", "disk"):
        assert found[name]["found"]
    says(engines={}, missing={"onnxruntime": {"found": "none", "hint": "pip install onnxruntime"}})
    with pytest.raises(errors.MissingTool, match="onnxruntime") as caught:
        doctor_device.doctor_device("desk", json=False)
    assert caught.value.exit_code == 5 and "pip install onnxruntime" in caught.value.hint


def test_doctor_says_when_a_board_is_of_another_kind(board, says, capsys):
    boards.write(boards.Board(name="desk", profile="jetson-orin-nano", host="me@desk"))
    says(machine={**state.machine(), "board": "Raspberry Pi 5"}, engines={"onnxruntime": "1"})
    doctor_device.doctor_device("desk", json=True)
    found = {row["what"]: row for row in json.loads(capsys.readouterr().out)["findings"]}
    assert "is no jetson-orin-nano" in found["profile"]["found"] and found["tensorrt"]["state"] == "warn"


@pytest.mark.parametrize(
    ("gpu", "good", "words"),
    [
        (
            {"gpu": "Orin", "capability": "8.7", "driver": "R36 (release), REVISION: 4.3 CUDA 12.6"},
            "ok",
            "8.7, driver R36",
        ),
        (None, "warn", "no NVIDIA driver"),
    ],
)
def test_doctor_says_which_gpu_and_driver_a_board_has(board, says, capsys, gpu, good, words):
    boards.write(boards.Board(name="desk", profile="jetson-orin-nano", host="me@desk"))
    says(gpu=gpu, engines={"onnxruntime": "1"})
    doctor_device.doctor_device("desk", json=True)
    found = {row["what"]: row for row in json.loads(capsys.readouterr().out)["findings"]}
    assert found["gpu"]["state"] == good and words in found["gpu"]["found"]


def test_devices_side_by_side_fail_each_for_itself(monkeypatch):
    """What is in common is made once; one board's failure stops no other; the worst exit code is the whole's."""
    from edgekd.pipeline import Outcome

    step = here.SimpleNamespace
    shared = [step(name="data", kind="data"), step(name="export/onnx", kind="export")]
    own = {name: step(name=f"bench/onnx@{name}", kind="bench") for name in ("a", "b", "c", "d")}
    made, kept = [], []

    def run(recipe, steps, settings, keep):
        names = [one.name for one in steps]
        if names[-1] == "bench/onnx@b":
            raise errors.MeasurementVoid("b", "throttled")
        done = [Outcome(one, "made", "") for one in steps]
        made.append(names)
        keep(done)
        settings.console.log(f"made {names[-1]}")
        return done

    def check_all(steps, done, settings):
        if steps[0].name == "bench/onnx@c":
            raise errors.MissingTool("c", "nothing listens there")

    monkeypatch.setattr(side_by_side, "run", run)
    monkeypatch.setattr(side_by_side, "check_all", check_all)
    settings = side_by_side.Settings(Path(), (), None, Console(quiet=True), 1, force=frozenset({"*"}))
    found = side_by_side.run_together(None, [*shared, *own.values()], settings, kept.append)
    assert [outcome.step.name for outcome in found.outcomes] == ["data", "export/onnx", "bench/onnx@a", "bench/onnx@d"]
    assert list(found.failures) == ["b", "c"] and found.exit_code == 5
    assert made[0] == ["data", "export/onnx"] and len(kept) == 3
    with pytest.raises(errors.MissingTool):
        monkeypatch.setattr(
            side_by_side, "check_all", lambda *args: (_ for _ in ()).throw(errors.MissingTool("x", "y"))
        )
        side_by_side.run_together(None, [*shared, *own.values()], settings, kept.append)


def test_one_line_per_device_says_whose_it_is(capsys):
    console = side_by_side.Named("desk", Console())
    console.log("made    bench/onnx@desk")
    console.log("reused  data")
    assert capsys.readouterr().err == "[desk] made    bench/onnx@desk\n"


def test_a_board_keeps_its_profiles_facts(board):
    device = profiles.device("desk")
    assert device.runtimes == profiles.devices()["cpu"].runtimes and device.sources
