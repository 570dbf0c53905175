"""The ledger from made-up artifacts: pairing, order, verdicts, and refusing other images."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from edgekd import predictions
from edgekd.analysis import losses
from edgekd.analysis.ledger import OTHER_IMAGES, failed, ledger
from edgekd.artifact import Artifact
from edgekd.errors import CheckFailed, IntegrityError
from edgekd.predictions import Predictions
from edgekd.recipe import Gate

N = 4000
LABEL = np.arange(N) % 10


def told(wrong=(), other=(), rows=None, role="test"):
    """Answers that are right but at `wrong`; at `other`, wrong in another way."""
    answer = LABEL.copy()
    answer[list(wrong)] = (LABEL[list(wrong)] + 1) % 10
    answer[list(other)] = (LABEL[list(other)] + 2) % 10
    logits = np.zeros((N, 10), np.float32)
    logits[np.arange(N), answer] = 1
    rows = np.arange(N) if rows is None else np.asarray(rows)
    return Predictions.make(rows, LABEL[: len(rows)], logits[: len(rows)], role)


@pytest.fixture
def chain(tmp_path):
    """`chain(step, inputs, answers)`: sealed-looking artifacts of one chain."""
    made = {}

    def add(step, inputs=(), answers=None, **metrics):
        path = tmp_path / step / f"{hashlib.sha256(step.encode()).hexdigest()[:8]}-00000000"
        path.mkdir(parents=True)
        files = {}
        if answers is not None:
            saved = predictions.save(path, answers).read_bytes()
            files[predictions.FILE] = {"sha256": hashlib.sha256(saved).hexdigest()}
        entries = {name.partition("/")[0]: {"id": made[name].id} for name in inputs}
        made[step] = Artifact(path, {"step": step, "inputs": entries, "files": files, "metrics": metrics})
        return made

    return add


def whole(chain):
    chain("data")
    chain("teacher", ["data"], told())
    chain("student", ["data", "teacher"], told(range(200)))
    chain("qat", ["data", "student"], told(range(205)))
    chain("graph", ["data", "qat"], told(range(205)))
    chain("quantized/u8s8", ["data", "graph", "qat"], told(range(260)))
    chain("quantized/fp16", ["data", "graph"], told(range(205)))
    chain("export/onnx-int8", ["quantized/u8s8"])
    chain("export/onnx", ["graph"])
    chain("bench/onnx-int8@cpu", ["data", "export/onnx-int8"], told(range(260)))
    return chain("bench/onnx@cpu", ["data", "export/onnx"], told(range(205)))


def test_rows_follow_the_chain_of_each_file(chain):
    rows = ledger(whole(chain), None)
    assert [row["step"] for row in rows] == [
        "teacher", "student", "qat", "graph", "bench/onnx@cpu", "quantized/fp16", "quantized/u8s8", "bench/onnx-int8@cpu",
    ]  # fmt: skip
    previous = {row["step"]: row["previous"]["to"] for row in rows[1:]}
    assert previous == {
        "student": "teacher", "qat": "student", "graph": "qat", "bench/onnx@cpu": "graph", "quantized/fp16": "graph",
        "quantized/u8s8": "graph", "bench/onnx-int8@cpu": "quantized/u8s8",
    }  # fmt: skip
    assert {row["origin"]["to"] for row in rows[2:]} == {"student"}


def test_figures_are_those_of_the_same_images(chain):
    row = {row["step"]: row for row in ledger(whole(chain), None)}["quantized/u8s8"]
    assert (row["origin"]["lost"], row["origin"]["gained"], row["origin"]["changed"]) == (60, 0, 60)
    assert row["origin"]["drop_pp"] == pytest.approx(1.5) and row["previous"]["drop_pp"] == pytest.approx(55 / 40)
    assert row["origin"]["agreement_percent"] == pytest.approx(98.5)
    assert row["top1_percent"]["value"] == pytest.approx(93.5) and row["top1_percent"]["n"] == N
    assert row["top1_percent"]["low"] < 93.5 < row["top1_percent"]["high"]
    assert row["origin"]["low_pp"] < 1.5 < row["origin"]["bound_pp"] < 1.9
    assert row["verdict"] == "loses 1.50 pp"


def test_the_gate_is_held_to_what_was_lost_since_the_student(chain):
    made = whole(chain)
    rows = ledger(made, Gate.model_validate({"max_drop_pp": 3, "stages": {"qat": 0.5, "quantized": 0.5}}))
    assert [row["step"] for row in failed(rows)] == ["quantized/u8s8"]
    judged = {row["step"]: row["gate"] for row in rows if row["gate"] is not None}
    assert set(judged) == {row["step"] for row in rows[2:]}
    assert judged["quantized/u8s8"]["budget_pp"] == pytest.approx(1.0)
    assert judged["bench/onnx-int8@cpu"]["budget_pp"] == 3 and judged["bench/onnx-int8@cpu"]["passed"]
    assert not failed(ledger(made, Gate.model_validate({"max_drop_pp": 2})))


@pytest.mark.parametrize(
    ("wrong", "other", "said"),
    [
        (range(300), (), "loses 2.50 pp"),
        (range(100), (), "better by 2.50 pp"),
        (range(200), (), "the same answers; a loss of at most 0.075 pp"),
        (range(203), (), "within noise; a loss of at most"),
        (range(197), (), "no loss seen; at most"),
        (range(199), [199], "no loss seen; at most 0.075 pp"),
    ],
)
def test_verdicts(wrong, other, said):
    found = losses.loss("student", told(range(200)), told(wrong, other))
    assert found.verdict.startswith(said)


def test_a_board_that_answered_fewer_images_is_compared_on_those(chain):
    chain("student", (), told(range(200)))
    made = chain("bench/onnx@cpu", ["student"], told(range(205), rows=range(1000)))
    row = ledger(made, None)[1]
    assert row["origin"]["n"] == 1000 and row["origin"]["lost"] == 5


@pytest.mark.parametrize("rows", [range(1, N + 1), range(N, 2 * N)])
def test_other_images_are_not_compared_and_pass_no_gate(chain, rows):
    chain("student", (), told())
    made = chain("graph", ["student"], told(rows=rows))
    (row,) = [row for row in ledger(made, Gate.model_validate({"max_drop_pp": 100})) if row["step"] == "graph"]
    assert row["origin"] is None and row["verdict"] == OTHER_IMAGES and not row["gate"]["passed"]
    with pytest.raises(CheckFailed, match="other test images"):
        losses.loss("student", told(), told(rows=rows))


def test_the_same_rows_with_other_labels_are_other_images():
    after = told()
    relabelled = replace(after, label=np.where(after.row == 5, 0, after.label))
    assert losses.comparable(told(), after) and not losses.comparable(told(), relabelled)


def test_rows_in_another_order_are_the_same_images(chain):
    order = np.random.default_rng(0).permutation(N)
    chain("student", (), told(range(200)))
    made = chain("graph", ["student"], told(range(260)).at(order))
    assert ledger(made, None)[1]["origin"]["lost"] == 60


def test_only_test_counts_and_a_void_measurement_does_not(chain):
    chain("student", (), Predictions.join([told(range(3000), role="val"), told(range(200))]))
    chain("graph", ["student"], told(range(200)))
    made = chain("bench/onnx@cpu", ["graph"], told(range(200)), verdict="void")
    rows = ledger(made, None)
    assert [row["step"] for row in rows] == ["student", "graph"] and rows[0]["top1_percent"]["n"] == N
    assert rows[1]["origin"]["changed"] == 0


def test_an_edited_answer_is_refused(chain):
    made = chain("student", (), told())
    predictions.save(made["student"].path, told(range(3)))
    with pytest.raises(IntegrityError, match="other bytes than were sealed"):
        ledger(made, None)


def test_an_untaught_graph_of_the_users_is_its_own_origin(chain):
    chain("graph", (), told(range(10)))
    made = chain("quantized/u8s8", ["graph"], told(range(30)))
    rows = ledger(made, Gate.model_validate({"max_drop_pp": 5}))
    assert rows[0]["gate"] is None and rows[1]["gate"]["to"] == "graph" and rows[1]["gate"]["passed"]
