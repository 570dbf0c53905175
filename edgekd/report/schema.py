"""What a report can say: frozen records of plain values, the same for terminal, JSON and HTML."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

SCHEMA_VERSION = 1

State = Literal["ok", "void", "not run", "skipped"]


class Fact(BaseModel):
    """Base of every record: frozen, no unknown key, finite numbers only."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Number(Fact):
    """A measured value; its unit is in the name of the field that holds it.

    Attributes:
        low: Lower end of the 95 % interval, None when none was computed.
        high: Upper end.
        n: Images or samples behind the value.
    """

    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None


class Drop(Fact):
    """Top-1 lost from one step to another on the same images; positive = worse.

    Attributes:
        against: Step that it is measured against.
        points: Drop in percentage points.
        low: Lower end of its paired 95 % interval.
        high: Upper end.
        lost: Images that only the earlier step got right.
        gained: Images that only the later step got right.
        n: Images that both answered.
    """

    against: str
    points: float
    low: float
    high: float
    lost: int
    gained: int
    n: int


class StageRow(Fact):
    """One step of the chain: what it is, what it is worth, what it costs."""

    step: str
    state: State
    what: str
    artifact: str | None = None
    top1_percent: Number | None = None
    val_top1_percent: Number | None = None
    val_seen_in_training: bool = False
    drop: Drop | None = None
    file_bytes: int | None = None
    parameters: int | None = None
    macs: int | None = None
    latency_p50_ms: Number | None = None
    latency_p90_ms: Number | None = None
    device: str | None = None
    verdict: str = ""
    command: str | None = None


class Curve(Fact):
    """Training history of one step.

    Attributes:
        epoch: [E] as recorded.
        losses: Loss terms by name, [E] each; None where an epoch has no finite value.
        val_top1_percent: [E]; empty when the run has no validation part.
        lr: [E]; empty when not recorded.
    """

    step: str
    what: str
    epoch: tuple[int, ...]
    losses: dict[str, tuple[float | None, ...]]
    val_top1_percent: tuple[float | None, ...] = ()
    lr: tuple[float | None, ...] = ()


class ClassRecall(Fact):
    """How many images of one class were found; `percent` is None for a class without images."""

    name: str
    right: int
    n: int
    percent: float | None = None
    low: float | None = None
    high: float | None = None


class Confusion(Fact):
    """Images of class `label` that were taken for class `answer`."""

    label: str
    answer: str
    n: int


class Evaluation(Fact):
    """Answers of the final shipped file on the test part.

    Attributes:
        matrix: [C, C] counts, row = label, column = answer; None above `evaluated.MATRIX_CLASSES` classes.
        worst: The most frequent confusions, most frequent first.
    """

    step: str
    artifact: str
    n: int
    classes: tuple[str, ...]
    recall: tuple[ClassRecall, ...]
    worst: tuple[Confusion, ...]
    matrix: tuple[tuple[int, ...], ...] | None = None


class Histogram(Fact):
    """Every latency sample of one part of the work, binned from the smallest to the largest: no tail is cut.

    Attributes:
        edges_ms: [K + 1] bin edges in ms.
        counts: [K] samples per bin.
        p50_ms: Median of the samples.
    """

    name: str
    n: int
    min_ms: float
    p50_ms: float
    max_ms: float
    edges_ms: tuple[float, ...]
    counts: tuple[int, ...]


class Power(Fact):
    """Energy of one inference above rest, or why there is none.

    Attributes:
        total: How the whole was taken: a rail that all is drawn from, or the sum of several.
        energy_mj: Of one inference, rest subtracted; n: updates of the sensor.
        mean_mw: While queries ran.
        idle_mw: Before them.
        refused: Why there is no figure.
        note: What is not in it.
    """

    probe: str
    total: str
    rails: tuple[str, ...] = ()
    energy_mj: Number | None = None
    mean_mw: float | None = None
    idle_mw: float | None = None
    refused: str | None = None
    note: str = ""


class Latency(Fact):
    """One benchmark; a void one keeps its reasons and gives no numbers, nor does one of a device that is not a real one.

    Attributes:
        kind: `this CPU`, `this accelerator`, `board`; or `emulated`, `simulator`, `estimated`, whose times are no latencies.
        verdict: `valid`, `valid-unlocked` or `void`.
        reasons: What speaks against the figures.
        p50_ms: End to end, batch 1; likewise p90_ms.
        throughput_per_s: Images a second in batches of `throughput_batch`.
        machine: State and versions as the runner recorded them, (name, value).
    """

    step: str
    artifact: str
    target: str
    device: str
    state: State
    verdict: str
    p50_ms: Number | None = None
    p90_ms: Number | None = None
    throughput_per_s: float | None = None
    throughput_batch: int | None = None
    kind: str = "this CPU"
    power: Power | None = None
    reasons: tuple[str, ...] = ()
    histograms: tuple[Histogram, ...] = ()
    machine: tuple[tuple[str, str], ...] = ()


class Attention(Fact):
    """Mean attention of the last epoch, [N_S, N_T]: how much student tap i listened to teacher tap j."""

    method: str
    artifact: str
    student_taps: tuple[str, ...]
    teacher_taps: tuple[str, ...]
    matrix: tuple[tuple[float | None, ...], ...]


class DataFacts(Fact):
    """The data set and the disjoint parts it was used in.

    Attributes:
        splits: Images of each split of the source.
        skipped: Files that the recipe leaves out by name.
        roles: What was done with them: held out, calibrated on, looked at; (name, text).
    """

    artifact: str
    name: str
    kind: str
    layout: str
    shape: str
    classes: tuple[str, ...]
    splits: dict[str, int]
    split_rule: str
    skipped: int
    duplicates: str
    roles: tuple[tuple[str, str], ...]


class Compared(Fact):
    """Top-1 lost against another step on the same images.

    Attributes:
        to: The other step.
        drop_pp: Percentage points; negative: gained.
        low_pp: One-sided 95 % lower bound.
        bound_pp: One-sided 95 % upper bound.
        lost: Images that only the other got right.
        gained: Images that only this one got right.
        changed: Images answered differently.
    """

    to: str
    n: int
    lost: int
    gained: int
    changed: int
    drop_pp: float
    low_pp: float
    bound_pp: float
    agreement_percent: float
    verdict: str


class Gated(Fact):
    """What the recipe's gate says of a step; the figures are None where it answered other images."""

    passed: bool
    budget_pp: float
    key: str
    to: str
    text: str
    hint: str = ""
    drop_pp: float | None = None
    bound_pp: float | None = None
    n: int | None = None


class Account(Fact):
    """One row of the accuracy ledger.

    Attributes:
        previous: Against the nearest step upstream.
        origin: Against the student; None for itself and its teacher.
        gate: None: nothing is demanded of it.
    """

    step: str
    artifact: str
    top1_percent: Number
    previous: Compared | None = None
    origin: Compared | None = None
    gate: Gated | None = None
    verdict: str = ""


class Operator(Fact):
    """One operator of a compiled network: what it was, where it runs (`NPU`, `CPU`), the compiler's cycles."""

    operator: str
    place: str
    cycles: int | None = None
    name: str = ""


class Placed(Fact):
    """What a target's compiler says of it; nothing in here was measured.

    Attributes:
        kind: Who says so.
        unit: What takes the operators: the NPU, or a library for the CPU.
        npu_operators: Taken by it.
        cpu_operators: Left to the CPU, or to slower kernels of it.
        fell_back: Those, by name.
        settings: The configuration that an estimate holds for.
        note: What the accuracy of the target rests on.
    """

    step: str
    kind: str
    unit: str = "NPU"
    coverage_percent: float
    npu_operators: int
    cpu_operators: int
    fell_back: str = ""
    estimated_ms: float | None = None
    cycles: int | None = None
    clock_mhz: float | None = None
    sram_bytes: int | None = None
    other_bytes: int | None = None
    settings: str = ""
    note: str = ""
    operators: tuple[Operator, ...] = ()


class Link(Fact):
    """One artifact of the chain and what it was made from."""

    step: str
    artifact: str
    key: str
    digest: str
    inputs: dict[str, str]


class Facts(Fact):
    """Everything a report says.

    Attributes:
        reconstruction: The sentence to print when the method is rebuilt from an abstract.
        made_with: Machine, versions and source of the last artifact, (name, value).
    """

    schema_version: int = SCHEMA_VERSION
    name: str
    recipe: dict[str, Any] | None
    reconstruction: str | None
    stages: tuple[StageRow, ...]
    ledger: tuple[Account, ...] = ()
    placed: tuple[Placed, ...] = ()
    curves: tuple[Curve, ...]
    shipped: Evaluation | None
    latency: tuple[Latency, ...]
    attention: Attention | None
    data: DataFacts | None
    lineage: tuple[Link, ...]
    made_with: tuple[tuple[str, str], ...]
