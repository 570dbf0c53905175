"""Stage `program`: student -> a `torch.export` program of batch 1, proven to be the same network, with all that a tool chain needs.

A tool chain of PyTorch runs in an environment of its own and takes files alone: the program, golden images with the logits that
it must reproduce first, and the training images to calibrate with.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgekd import predictions
from edgekd.analysis.parity import fp32_parity
from edgekd.artifact import Artifact
from edgekd.data import calibration, normalize
from edgekd.errors import RecipeError, StageFailed
from edgekd.params import ProgramParams
from edgekd.stages.base import RunContext, StageResult
from edgekd.stages.converted import conclude, normalization, parity_metrics, read_json, write_json

if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram

VERSION = 1
PROGRAM = "program.pt2"
PAYLOAD = (PROGRAM, "model.json", "golden.npz", "calibration.npz", "calibration.json", predictions.FILE)
# Notes of where a value was computed: paths of this machine, and nothing that a tool reads.
NOTES = ("stack_trace", "nn_module_stack", "source_fn_stack", "from_node", "torch_fn")


def check(params: ProgramParams, context: RunContext) -> None:
    """Raise what can be known before work.

    Raises:
        RecipeError: No golden or calibration image, or more than train has.
    """
    from edgekd.stages import judge

    if params.golden < 1:
        raise RecipeError("program.golden", str(params.golden), ">= 1")
    judge.require_train("quantize.images", params.images, params.roles, context)


def run(params: ProgramParams, inputs: Mapping[str, Artifact], out: Path, context: RunContext) -> StageResult:
    """Export, compare with the network, write what travels with it, evaluate.

    Args:
        params: Number of golden and calibration images, roles, seed.
        inputs: `data` and `student` (a network that was trained for quantization where there is one).
        out: Where `program.pt2`, `model.json`, `golden.npz`, `calibration.npz`, `calibration.json`, `predictions.npz` go.
        context: Console and threads.

    Raises:
        CheckFailed: The program does not answer as the network does.
        RecipeError: The student was made for other classes or images.
        StageFailed: torch cannot export it.
    """
    import torch

    from edgekd.fit.evaluate import evaluate as torch_logits
    from edgekd.fit.process import own_threads
    from edgekd.stages import evaluate

    data = evaluate.open_data(inputs["data"], params.roles)
    network, model, _ = evaluate.read_network(inputs["student"], data)
    facts = {**read_json(inputs["student"].path / "model.json"), "scheme": "none", "format": "torch.export"}
    norm = normalization(facts)
    train = data.arrays.images("train").images
    golden = np.asarray(train[calibration.golden_rows(data.arrays, params.golden)])
    context.console.log(f"program: torch {torch.__version__} exports {model}, batch 1")
    network = network.float().eval()
    with own_threads(context.threads):
        program = export(network, (1, facts["channels"], facts["height"], facts["width"]))
        torch.export.save(program, out / PROGRAM)
        wanted = torch_logits(network, golden, np.arange(len(golden)), *norm)
        again = torch.export.load(out / PROGRAM).module()
        inside = torch.from_numpy(normalize.apply(golden, *norm))
        found = np.concatenate([again(inside[i : i + 1]).detach().numpy() for i in range(len(inside))])
        answers = evaluate.answers(network, data, norm, "cpu", ("val", "test"))
    report = fp32_parity(wanted, found)
    conclude(out, "program", "torch", {"golden": report}, context)
    write_json(out / "model.json", facts)
    np.savez(out / "golden.npz", images=golden, logits=wanted)
    rows = calibration.calibration_rows(data.arrays, params.images, params.seed)
    np.savez(out / "calibration.npz", images=np.asarray(train[rows]), rows=rows)
    write_json(out / "calibration.json", {"role": "train", "rows": rows.tolist(), "seed": params.seed})
    predictions.save(out, answers)
    metrics = {**predictions.summarize(answers), **parity_metrics(report), "calibration_images": len(rows)}
    metrics |= {"file_bytes": (out / PROGRAM).stat().st_size, "torch": str(torch.__version__)}
    return StageResult({**metrics, "parameters": facts["parameters"], "macs": facts["macs"]}, PAYLOAD)


def export(network: nn.Module, shape: tuple[int, ...]) -> ExportedProgram:
    """A network as a program for inputs of one shape, without notes of this machine.

    Raises:
        StageFailed: torch cannot.
    """
    import torch

    try:
        program = torch.export.export(network, (torch.zeros(shape),))
    except (torch._dynamo.exc.TorchDynamoException, RuntimeError) as error:
        first = str(error).strip().splitlines()[0]
        raise StageFailed(
            "program", f"torch cannot export the network: {first}", "a network without branches"
        ) from error
    for node in program.graph.nodes:
        for note in NOTES:
            node.meta.pop(note, None)
    return program
