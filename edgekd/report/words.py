"""Figures as people read them: with unit, interval and n; a dash where there is none."""

from __future__ import annotations

from edgekd import profiles
from edgekd.report.schema import Drop, Facts, Latency, Number, StageRow

NONE = "–"
UNREAL = ("emulated", "simulator", "estimated")  # kinds whose times are no latencies
MINUS = "−"
ONE_START = "latency intervals: of one start of the runner; another may lie outside; over several: edgekd bench A B"


def percent(number: Number | None) -> str:
    """`92.11 [91.56, 92.62]`, in percent."""
    if number is None:
        return NONE
    return f"{number.value:.2f}{_interval(number, '.2f')}"


def milliseconds(number: Number | None) -> str:
    """`0.812 [0.809, 0.815]`, in ms, three significant digits."""
    if number is None:
        return NONE
    digits = decimals(number.value)
    return f"{number.value:.{digits}f}{_interval(number, f'.{digits}f')}"


def decimals(value: float) -> int:
    """Decimals that give three significant digits of a latency in ms."""
    return 3 if value < 1 else 2 if value < 10 else 1 if value < 100 else 0


def points(drop: Drop | None) -> str:
    """`0.42 [0.11, 0.73]` percentage points lost; a gain is negative."""
    if drop is None:
        return NONE
    return f"{signed(drop.points)} [{signed(drop.low)}, {signed(drop.high)}]"


def signed(value: float) -> str:
    """Two decimals with a typographic minus."""
    text = f"{value:.2f}"
    return "0.00" if text == "-0.00" else text.replace("-", MINUS)


def size(count: int | None) -> str:
    """Bytes as decimal kB or MB."""
    if count is None:
        return NONE
    if count < 1000:
        return f"{count} B"
    return f"{count / 1e3:.1f} kB" if count < 1_000_000 else f"{count / 1e6:.2f} MB"


def count(number: int | None) -> str:
    """Thousands apart."""
    return NONE if number is None else f"{number:,}"


def validation(row: StageRow) -> str:
    """Validation top-1 in percent; a figure of images that were trained on says so."""
    if row.val_top1_percent is None:
        return NONE
    text = f"{row.val_top1_percent.value:.2f}"
    return f"{text} (seen in training)" if row.val_seen_in_training else text


def headline(facts: Facts) -> str:
    """One sentence: what ships, how good, how large, how fast, where; empty when nothing was measured."""
    rows = [row for row in facts.stages if row.state == "ok" and row.top1_percent is not None]
    if not rows:
        return ""
    last = rows[-1]
    parts = [f"{last.step}: {percent(last.top1_percent)} % top-1 (95 % interval, n={count(_n(last))})"]
    bench = next((item for item in facts.latency if item.step == last.step), None)
    if last.file_bytes is not None:
        parts.append(size(last.file_bytes))
    if bench is not None and bench.p50_ms is not None:
        parts.append(speed(bench))
    return ", ".join(parts)


def speed(bench: Latency) -> str:
    """`p50 0.812 ms, p90 0.930 ms on cpu (n=10,000 runs)`, and what its profile must be called."""
    parts = [
        f"{name} {milliseconds(value)} ms" for name, value in (("p50", bench.p50_ms), ("p90", bench.p90_ms)) if value
    ]
    n = bench.p50_ms.n if bench.p50_ms is not None else None
    called = dict(bench.machine).get("label")
    runs = (f" (n={count(n)} runs)" if n is not None else "") + (f", {called}" if called else "")
    return f"{', '.join(parts)} on {bench.device}{runs}"


def one_start(facts: Facts) -> str:
    """What the interval of a latency that was measured alone does not say; empty where there is none."""
    return ONE_START if any(bench.p50_ms and bench.p50_ms.low is not None for bench in facts.latency) else ""


def no_gain(facts: Facts) -> list[str]:
    """Of each int8 file whose interval is not below that of the float file beside it: so, and what to choose."""
    known = profiles.targets()
    timed = [(known[b.target], b, b.p50_ms) for b in facts.latency if b.p50_ms is not None and b.target in known]
    said = []
    for small, bench, its in timed:
        for whole, other, theirs in timed:
            same = (whole.family, other.device, whole.scheme) == (small.family, bench.device, "none")
            if not same or profiles.precision(small.scheme) != "int8" or _above(theirs) > _below(its):
                continue
            said.append(
                f"{bench.step} is not shown to be faster than {other.step}: ship {whole.name}, or {small.name} for its "
                f"size alone; in turn: edgekd bench {whole.name} {small.name}"
            )
    return said


def void(bench: Latency) -> str:
    """Why a measurement must not be used."""
    return f"void: {'; '.join(bench.reasons) or 'no reason recorded'}"


def state(bench: Latency) -> str:
    """The verdict of a measurement with what speaks against it, and first what it was made on where that is no real device."""
    if bench.state == "void":
        return void(bench)
    kind = f"{bench.kind}: correctness only" if bench.kind in UNREAL else ""
    reasons = [reason for reason in bench.reasons if reason != kind]
    verdict = f"{bench.verdict}: {'; '.join(reasons)}" if reasons else bench.verdict
    return f"{kind}; {verdict}" if kind else verdict


def energy(bench: Latency) -> str:
    """`4.02 mJ an inference [3.98, 4.06] above rest (rail VDD_IN: 9.01 W, 5.00 W at rest; 198 sensor updates)`, or why there is none."""
    power = bench.power
    if power is None:
        return ""
    if power.energy_mj is None or power.mean_mw is None or power.idle_mw is None:
        return f"no energy figure: {power.refused}"
    figure, watts = power.energy_mj, f"{power.mean_mw / 1000:.2f} W, {power.idle_mw / 1000:.2f} W at rest"
    text = f"{figure.value:.3g} mJ an inference{_interval(figure, '.3g')} above rest ({power.total}: {watts}; {count(figure.n)} sensor updates)"
    return f"{text}; {power.note}" if power.note else text


def throughput(bench: Latency) -> str:
    """Images a second with the batch that they came in."""
    if bench.throughput_per_s is None:
        return NONE
    batch = f" (batch {bench.throughput_batch})" if bench.throughput_batch is not None else ""
    return f"{bench.throughput_per_s:,.0f}{batch}"


def next_command(facts: Facts) -> str:
    """The next thing to type: what makes the first step that was not run."""
    missing = [row.command for row in facts.stages if row.state == "not run" and row.command]
    return missing[0] if missing else "edgekd artifacts ls"


def missing(facts: Facts, *kinds: str) -> str:
    """The command for the first of these steps that was not run, or empty when all were."""
    rows = (row.command for row in facts.stages if row.step in kinds and row.state == "not run")
    return next((command for command in rows if command), "")


def _n(row: StageRow) -> int | None:
    return row.top1_percent.n if row.top1_percent is not None else None


def _above(number: Number) -> float:
    """Its lower end: what it is at the least."""
    return number.value if number.low is None else number.low


def _below(number: Number) -> float:
    """Its upper end."""
    return number.value if number.high is None else number.high


def _interval(number: Number, form: str) -> str:
    if number.low is None or number.high is None:
        return ""
    return f" [{number.low:{form}}, {number.high:{form}}]"
