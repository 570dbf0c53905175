"""Is the runner's stopwatch right? Its p50 against onnxruntime's own loop and a bare timed loop, in turn in one run.

    python benchmarks/bench_truth.py --workspace W [--files onnx onnx-int8] [--threads 1] [--output truth.json]

`edgekd bench --device cpu` measures with `runner.pyz`; here the same runner works in turn mode. `onnxruntime` is a default
session timed around `run` alone: it is held against the runner's inference part. `bare` is the loop below, from the raw image to
the class: it is held against the runner's end-to-end time. Same file, same images, same number of threads; each is a process of
its own; a ratio is taken within a round, its interval over six starts of every process. Goal: every ratio within 3 % of 1.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

GOAL = 0.03
WARM = 50  # runs before the first that counts


def bare(model: str, images: str, threads: str) -> None:
    """What most people write: normalise, run, argmax, with a clock around it. One line of JSON a turn."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = int(threads)
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    with np.load(images) as file:
        pixels = file["images"]
        scale, offset = ((values[:, None, None]).astype(np.float32) for values in (file["scale"], file["offset"]))
    asked = 0

    def query() -> int:
        nonlocal asked
        image = pixels[asked % len(pixels)]
        asked += 1
        begun = time.perf_counter_ns()
        network_input = np.ascontiguousarray(image.transpose(0, 3, 1, 2) * scale + offset)
        int(session.run(None, {name: network_input})[0].argmax())
        return time.perf_counter_ns() - begun

    for _ in range(WARM):
        query()
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        word, _, count = line.strip().partition(" ")
        if word != "step":
            break
        print(json.dumps({"ns": [query() for _ in range(int(count))]}), flush=True)


def measure(name: str, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One exported file under all three."""
    from edgekd.analysis.turns import figures, ratio_interval
    from edgekd.commands.bench_turns import TurnsOptions, find_entries
    from edgekd.console import Console
    from edgekd.data import roles
    from edgekd.stages import bench_turns, rivals
    from edgekd.stages.contenders import Spoken

    overrides = [f"bench.threads={args.threads}", "bench.profile=quick"]
    options = TurnsOptions([name], "cpu", args.workspace, None, overrides, None, False)
    entry = find_entries(options, Console(quiet=True))[0]
    facts = json.loads((entry.inputs["export"].path / "model.json").read_text())["normalize"]
    rows = roles.split(entry.inputs["data"], entry.params.roles).rows["test"][: rivals.DISTINCT]
    images = np.load(entry.inputs["data"].path / "images_test.npy", mmap_mode="r")[rows][:, None]
    mean, std = np.array(facts["mean"]), np.array(facts["std"])
    np.savez(folder / "images.npz", images=images, scale=1 / (255 * std), offset=-mean / std)
    model = entry.inputs["export"].path / "model.onnx"
    loop = [sys.executable, __file__, "--bare", str(model), str(folder / "images.npz"), str(args.threads)]
    others = [rivals.names()["onnxruntime"](entry, folder), Spoken("bare", loop)]
    found = bench_turns.measure([entry], folder / "work", lambda line: print(line, file=sys.stderr), 0, others)
    rounds = found.rounds
    ratios = {}
    for other, part in (("onnxruntime", "inference"), ("bare", "end_to_end")):
        ours = np.array([np.median(block[part]) for block in rounds.blocks[entry.name]])
        theirs = np.array([np.median(block["end_to_end"]) for block in rounds.blocks[other]])
        ratio, low, high = ratio_interval(ours / theirs, sittings=rounds.sittings)
        ratios[other] = {"part": part, "ratio": ratio, "low": low, "high": high, "within": abs(ratio - 1) <= GOAL}
    result = found.results[entry.name]
    return {
        "file": entry.inputs["export"].id,
        "threads": args.threads,
        "rounds": len(rounds.orders),
        "runtime": result["runtime"]["version"],
        "cpu": result["machine"]["cpu"],
        "verdict": result["verdict"],
        "reasons": result["reasons"],
        "figures": {contender: figures(blocks) for contender, blocks in rounds.blocks.items()},
        "ratios": ratios,
    }


def table(rows: list[dict[str, Any]]) -> None:
    """The result as Markdown."""
    print("| file | part of edgekd | p50 ms [95 %] | against | p50 ms [95 %] | ratio [95 %] | within 3 % |")
    print("|---|---|---:|---|---:|---:|---|")
    for row in rows:
        own = next(name for name in row["figures"] if name not in row["ratios"])
        for other, found in row["ratios"].items():
            ours, theirs = row["figures"][own][found["part"]], row["figures"][other]["end_to_end"]
            ratio = f"{found['ratio']:.4f} [{found['low']:.4f}, {found['high']:.4f}]"
            cells = (
                row["file"],
                found["part"],
                _span(ours),
                other,
                _span(theirs),
                ratio,
                "yes" if found["within"] else "NO",
            )
            print(f"| {' | '.join(cells)} |")
    for row in rows:
        print(f"\n{row['file']}: {row['rounds']} rounds, {row['cpu']}, onnxruntime {row['runtime']}, {row['verdict']}")
        print("\n".join(f"- {reason}" for reason in row["reasons"]))


def _span(figures: dict[str, float]) -> str:
    return f"{figures['p50_ms']:.4f} [{figures['p50_low_ms']:.4f}, {figures['p50_high_ms']:.4f}]"


def main() -> int:
    """Exit code 0: every ratio is within the goal; 3: one is not."""
    if sys.argv[1:2] == ["--bare"]:
        bare(*sys.argv[2:5])
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", type=Path, required=True, help="a workspace with exported files")
    parser.add_argument("--files", nargs="+", default=["onnx", "onnx-int8"], help="targets, ids or tags")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    rows = []
    for name in args.files:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(name, args, Path(folder)))
    table(rows)
    if args.output is not None:
        args.output.write_text(json.dumps({"goal": GOAL, "files": rows}, indent=1) + "\n")
    return 0 if all(found["within"] for row in rows for found in row["ratios"].values()) else 3


if __name__ == "__main__":
    sys.exit(main())
