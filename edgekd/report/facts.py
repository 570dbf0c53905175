"""Artifacts -> facts: everything that a report says, read once, the same for terminal, JSON and HTML."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgekd.errors import IntegrityError
from edgekd.report import evaluated, words
from edgekd.report.beginning import imported, skipped
from edgekd.report.bench import latency
from edgekd.report.datapart import data_facts
from edgekd.report.folder import Answers, Folder, clean, flat
from edgekd.report.placed import placed
from edgekd.report.schema import (
    Account,
    DataFacts,
    Drop,
    Evaluation,
    Facts,
    Latency,
    Link,
    Number,
    StageRow,
)
from edgekd.report.training import attention, curve, method, reconstruction

if TYPE_CHECKING:
    from edgekd.artifact import Artifact

COMMANDS = {  # step -> the command that makes it, in the order of the chain
    "data": "edgekd train",
    "teacher": "edgekd train",
    "views": "edgekd distill",
    "student": "edgekd distill",
    "qat": "edgekd quantize",
    "graph": "edgekd export",
    "quantized": "edgekd quantize",
    "program": "edgekd export",
    "export": "edgekd export",
    "bench": "edgekd bench",
}

# A teacher may look on live, a student may be rounded after its training, and few targets are made from a torch program.
OPTIONAL = ("views", "qat", "program")


def gather(
    artifacts: Mapping[str, Artifact],
    recipe: Mapping[str, Any] | None = None,
    ledger: Sequence[Mapping[str, Any]] = (),
) -> Facts:
    """Read the artifacts of one run.

    Args:
        artifacts: {step name: artifact}; steps that were not run are not in it.
        recipe: The recipe that they belong to, as plain data; names the report.
        ledger: Rows of their accuracy ledger, as `edgekd.analysis.ledger` gives them.

    Raises:
        IntegrityError: A file in an artifact is not what it should be.
    """
    folders = {name: Folder(artifacts[name]) for name in sorted(artifacts, key=lambda name: _rank(name))}
    answers = {name: found for name, folder in folders.items() if (found := folder.answers()) is not None}
    benches = tuple(latency(name, folder) for name, folder in folders.items() if _kind(name) == "bench")
    void = {bench.step for bench in benches if bench.state == "void"}
    data = data_facts(folders) if "data" in folders else None
    plain = clean(recipe) if recipe is not None else None
    return Facts(
        name=str(plain.get("name") or "edgekd") if plain else "edgekd",
        recipe=plain,
        reconstruction=reconstruction(folders.get("student")),
        stages=tuple(_rows(folders, answers, {bench.step: bench for bench in benches}, plain)),
        ledger=tuple(Account.model_validate(clean(row)) for row in ledger),
        placed=tuple(put for name, folder in folders.items() if (put := placed(name, folder)) is not None),
        curves=tuple(
            trained
            for name, folder in folders.items()
            if (trained := curve(name, _what(name, folder, folder.json("model.json") or {}), folder)) is not None
        ),
        shipped=_shipped(folders, answers, void, data),
        latency=benches,
        attention=attention(folders.get("student")),
        data=data,
        lineage=tuple(_link(name, folder) for name, folder in folders.items()),
        made_with=_made_with(list(folders.values())),
    )


def _kind(name: str) -> str:
    return name.partition("/")[0]


def _rank(name: str) -> int:
    order = list(COMMANDS)
    return order.index(_kind(name)) if _kind(name) in order else len(order)


def _rows(
    folders: Mapping[str, Folder],
    answers: Mapping[str, Answers],
    benches: Mapping[str, Latency],
    recipe: Mapping[str, Any] | None,
) -> Iterator[StageRow]:
    """One row a step in the order of the chain; steps that are missing say what to type."""
    for kind, command in COMMANDS.items():
        names = [name for name in folders if _kind(name) == kind]
        if kind == "data" or (kind in OPTIONAL and not names):
            continue
        for name in names:
            yield _row(name, folders, answers, benches.get(name))
        why = "" if names else skipped(kind, folders, recipe)
        if why:
            yield StageRow(step=kind, state="skipped", what="", verdict=f"skipped: {why}")
        elif not names:
            yield StageRow(step=kind, state="not run", what="", verdict="not run", command=command)


def _row(name: str, folders: Mapping[str, Folder], answers: Mapping[str, Answers], bench: Latency | None) -> StageRow:
    folder = folders[name]
    metrics, void = folder.metrics, bench is not None and bench.state == "void"
    model = folder.json("model.json") or {}
    before = _previous(name, folders, answers)
    drop = None
    if name in answers and before is not None and not void and answers[name].same_images(answers[before]):
        drop = evaluated.drop(before, answers[before], answers[name])
    val = metrics.get("val_top1_percent")
    return StageRow(
        step=name,
        state="void" if void else "ok",
        what=_what(name, folder, model),
        artifact=folder.artifact.id,
        top1_percent=evaluated.top1(answers[name]) if name in answers and not void else None,
        val_top1_percent=None if val is None else Number(value=val, n=metrics.get("n_val")),
        val_seen_in_training=folder.params.get("trained_on") == "train+val",
        drop=drop,
        file_bytes=_bytes(folder, folders.values()),
        parameters=metrics.get("parameters", model.get("parameters")),
        macs=metrics.get("macs", model.get("macs")),
        latency_p50_ms=bench.p50_ms if bench else None,
        latency_p90_ms=bench.p90_ms if bench else None,
        device=bench.device if bench else None,
        verdict=words.void(bench) if bench is not None and void else _verdict(name, folders, answers, drop),
    )


def _bytes(folder: Folder, folders: Iterable[Folder]) -> int | None:
    """Of a step's network; of a file whose weights lie beside it, and of what is measured of that one, with these."""
    own = folder.metrics.get("file_bytes") or folder.size("model.onnx", "weights.safetensors")
    beside = [one.metrics.get("weights_bytes", 0) for one in folders if one is folder or folder.made_from(one)]
    return own and int(own + sum(beside))


def _previous(name: str, folders: Mapping[str, Folder], answers: Mapping[str, Answers]) -> str | None:
    """The nearest step upstream that was evaluated; a student's teacher counts, data does not."""
    upstream = [other for other in folders if other != name and _rank(other) <= _rank(name)]  # one export from another
    made_from = [other for other in upstream if folders[name].made_from(folders[other])]
    parents = [other for other in made_from if _kind(other) != "data"]
    if not parents:
        return None
    parent = parents[-1]
    return parent if parent in answers else _previous(parent, folders, answers)


def _verdict(name: str, folders: Mapping[str, Folder], answers: Mapping[str, Answers], drop: Drop | None) -> str:
    if name not in answers:
        users = [other for other in answers if folders[other].made_from(folders[name])]
        return f"evaluated as {users[0]}" if users else "not evaluated"
    before = _previous(name, folders, answers)
    if before is None:
        return "first of the chain"
    if drop is None:
        return f"not compared with {before}: other images"
    if drop.low <= 0.0 <= drop.high:
        return f"no difference shown (n={drop.n:,})"
    word = "lower" if drop.points > 0 else "higher"
    return f"{word} than {before} by {abs(drop.points):.2f} pp (n={drop.n:,})"


def _what(name: str, folder: Folder, model: Mapping[str, Any]) -> str:
    kind, _, rest = name.partition("/")
    params = folder.params
    network = str(model.get("model") or params.get("model") or "")
    if params.get("checkpoint_sha256"):
        return f"{network}, imported"
    if params.get("onnx_sha256"):
        return imported(name, folder, model)
    if kind == "teacher":
        return network
    if kind == "views":
        views, images = folder.metrics.get("views", "?"), folder.metrics.get("images", 0)
        return f"the teacher's answers to {views} views of each of {images:,} images"
    if kind == "student":
        looked_on = f" ({folder.metrics['views']})" if "views" in folder.metrics else ""
        taught = method(folder) not in ("", "ce")
        return f"{network} taught by {method(folder)}{looked_on}" if taught else f"{network}, labels only"
    if kind == "qat":
        return f"{network} trained on, rounded as its {params.get('scheme', 'int8')} file will be"
    if kind == "graph":
        return f"{network} as fp32 ONNX, opset {model.get('opset', params.get('opset', '?'))}"
    if kind == "program":
        return f"{network} as torch.export program"
    if kind == "quantized":
        return f"{network} as {rest}{_calibration(folder)}"
    if kind == "bench":
        target, _, device = rest.partition("@")
        return f"{target} measured on {device}"
    return f"{rest} file" if rest else network


def _calibration(folder: Folder) -> str:
    found = folder.json("calibration.json") or {}
    rule, images = (found.get("args") or {}).get("calibrate"), found.get("images")
    return ", calibrated" + (f" by {rule}" if rule else "") + f" on {images:,} images" if images else ""


def _shipped(
    folders: Mapping[str, Folder], answers: Mapping[str, Answers], void: set[str], data: DataFacts | None
) -> Evaluation | None:
    """The last valid bench, else the last quantized file: what a user would carry to the device."""
    names = [name for name in answers if _kind(name) in ("quantized", "bench") and name not in void]
    if not names:
        return None
    name, found = names[-1], answers[names[-1]]
    classes = data.classes if data is not None else tuple(str(i) for i in range(found.classes))
    if len(classes) != found.classes:
        where = f"{folders[name].artifact.id}: predictions.npz"
        raise IntegrityError(where, f"{found.classes} logits a row", f"{len(classes)}, the classes in data.json")
    return evaluated.evaluate(name, folders[name].artifact.id, found, classes)


def _link(name: str, folder: Folder) -> Link:
    artifact = folder.artifact
    return Link(
        step=name, artifact=artifact.id, key=artifact.key, digest=artifact.digest, inputs=clean(artifact.inputs)
    )


def _made_with(folders: list[Folder]) -> tuple[tuple[str, str], ...]:
    """Versions, host and source of what was made last; the host's own name stays at home."""
    manifest = folders[-1].artifact.manifest if folders else {}
    shown = {key: manifest[key] for key in ("versions", "source", "host", "threads", "seed") if key in manifest}
    return tuple(row for row in flat(clean(shown)) if row[0] != "host.name")
