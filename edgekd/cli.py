"""The command line. It only declares; the work is in `edgekd/commands/`, imported when a command runs."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn, cast

import typer

from edgekd import __version__
from edgekd.commands import WORKSPACE
from edgekd.commands import output as results
from edgekd.errors import EdgekdError, StageFailed, UsageError

EXIT_CODES = """
Exit codes: 0 ok; 1 bug; 2 usage or recipe; 3 a check of the result failed; 4 measurement void;
5 missing tool, board or runtime; 6 integrity; 7 a stage failed (disk full, read-only, out of memory);
8 engine of another version or chip; 130 interrupted; 141 the reader of the output went away.
"""

SEVERAL = (
    "In several processes: torchrun --nproc-per-node 2 -m edgekd ... (batch_size is that of all together; torchrun itself "
    "exits 1 on every failure and shows the exit code of the process that failed first)."
)

app = typer.Typer(
    name="edgekd",
    help="Train a teacher, distil a student, quantize, export and measure it. Each step is a versioned artifact.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
recipes_app = typer.Typer(help="List, show, check and copy recipes.", no_args_is_help=True, rich_markup_mode=None)
artifacts_app = typer.Typer(
    help="List, show, verify, tag and clean up artifacts.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(recipes_app, name="recipes")
app.add_typer(artifacts_app, name="artifacts")
bundle_app = typer.Typer(
    help="One folder or tar for a bare board: model, runner, labels, golden answers, every hash.",
    epilog="Examples: edgekd bundle --format onnx-int8 --output shipped.tar; edgekd bundle --kind bench --sign key.pem",
    invoke_without_command=True,
    rich_markup_mode=None,
)
app.add_typer(bundle_app, name="bundle")
tools_app = typer.Typer(
    help="Tool environments of NPU compilers: list, install, look after, remove.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(tools_app, name="tools")
devices_app = typer.Typer(rich_markup_mode=None)
app.add_typer(devices_app, name="devices")

RecipeOption = Annotated[
    str | None,
    typer.Option("--recipe", "-r", help="Recipe file, or the name of a shipped one. Default: the current run's."),
]
WorkspaceOption = Annotated[
    Path, typer.Option("--workspace", "-w", envvar="EDGEKD_WORKSPACE", help="Folder that holds the artifacts.")
]
DataRootOption = Annotated[
    list[Path] | None,
    typer.Option("--data-root", help="Folder with data sets and checkpoints; may be repeated. Also: EDGEKD_DATA."),
]
FromOption = Annotated[
    str | None, typer.Option("--from", help="Start from this artifact: id, unique prefix, tag or `latest`.")
]
ChainOption = Annotated[
    str | None, typer.Option("--from", help="The chain of this artifact: id, unique prefix, tag or `latest`.")
]
StartOption = Annotated[
    str | None,
    typer.Option("--from", help="Start from this artifact (id, unique prefix, tag or `latest`), or from an ONNX file."),
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="Override one recipe value: a.b=c; may be repeated.")
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Say what would run, what is cached and the estimated time.")
]
ForceOption = Annotated[bool, typer.Option("--force", help="Make it again although it is there.")]
OutputOption = Annotated[Path | None, typer.Option("--output", "-o", help="Copy the result into this folder.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
ThreadsOption = Annotated[
    int | None,
    typer.Option("--threads", min=1, help="CPU threads of training. Default: all cores, shared out under torchrun."),
]
BenchThreadsOption = Annotated[
    int | None, typer.Option("--threads", min=1, help="CPU threads of the measured model: bench.threads. Default: 1.")
]
EpochsOption = Annotated[
    int | None, typer.Option(min=1, help="Epochs of every student; milestones and warm-up move with them.")
]
FormatOption = Annotated[
    list[str] | None,
    typer.Option("--format", "-f", help="Target instead of the recipe's; may be repeated. See `edgekd formats`."),
]
DeviceOption = Annotated[
    str | None,
    typer.Option(
        "--device", "-d", help="Device, or family, instead of the recipe's; several: a,b. See `edgekd devices`."
    ),
]
RuntimeOption = Annotated[
    str | None,
    typer.Option(
        "--runtime", help="Runtime instead of the device's first that the target runs in; all: every one here, in turn."
    ),
]


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(f"edgekd {__version__}")
        raise typer.Exit


def _chain(goal: str, options: dict[str, Any], **more: Any) -> None:
    from edgekd.commands.chain import ChainOptions, chain
    from edgekd.commands.every_runtime import every_runtime

    names = {"from_": "source", "set_": "overrides", "format_": "targets"}
    values = {names.get(name, name): value for name, value in options.items()}
    given = ChainOptions(**{**values, **more})
    if goal == "runtimes":
        every_runtime(given)
    else:
        chain(goal, given)


@app.command(epilog="Example: edgekd run --recipe recipes/quickstart.yaml")
def run(
    recipe: RecipeOption = None,
    device: DeviceOption = None,
    workspace: WorkspaceOption = WORKSPACE,
    data_root: DataRootOption = None,
    from_: StartOption = None,
    set_: SetOption = None,
    dry_run: DryRunOption = False,
    force: ForceOption = False,
    output: OutputOption = None,
    threads: ThreadsOption = None,
    json: JsonOption = False,
) -> None:
    """Run the whole chain: what is made is kept, what is not is made."""
    _chain("bench", locals(), command="run")


@app.command(epilog=f"Example: edgekd train --recipe recipes/resnet56_to_resnet20.yaml\n\n{SEVERAL}")
def train(
    recipe: RecipeOption = None,
    workspace: WorkspaceOption = WORKSPACE,
    data_root: DataRootOption = None,
    from_: FromOption = None,
    set_: SetOption = None,
    dry_run: DryRunOption = False,
    force: ForceOption = False,
    output: OutputOption = None,
    threads: ThreadsOption = None,
    json: JsonOption = False,
) -> None:
    """Train the teacher, or import its checkpoint."""
    _chain("teacher", locals(), command="train")


@app.command(epilog=f"Example: edgekd distill --recipe recipes/resnet56_to_resnet20.yaml\n\n{SEVERAL}")
def distill(
    recipe: RecipeOption = None,
    workspace: WorkspaceOption = WORKSPACE,
    data_root: DataRootOption = None,
    from_: FromOption = None,
    set_: SetOption = None,
    dry_run: DryRunOption = False,
    force: ForceOption = False,
    output: OutputOption = None,
    threads: ThreadsOption = None,
    json: JsonOption = False,
) -> None:
    """Distil the student."""
    _chain("student", locals(), command="distill")


@app.command(epilog="Example: edgekd quantize --set quantize.calibrate=minmax")
def quantize(
    recipe: RecipeOption = None,
    workspace: WorkspaceOption = WORKSPACE,
    data_root: DataRootOption = None,
    from_: StartOption = None,
    set_: SetOption = None,
    dry_run: DryRunOption = False,
    force: ForceOption = False,
    output: OutputOption = None,
    threads: ThreadsOption = None,
    json: JsonOption = False,
) -> None:
    """Quantize the student's graph."""
    _chain("quantized", locals(), command="quantize")


class BuildPlace(StrEnum):
    """Where an engine is built."""

    HERE = "here"
    DEVICE = "device"


@app.command(epilog="Examples: edgekd export --format onnx-int8 --output shipped/; edgekd export --format trt")
def export(
    recipe: RecipeOption = None,
    format_: FormatOption = None,
    workspace: WorkspaceOption = WORKSPACE,
    data_root: DataRootOption = None,
    from_: StartOption = None,
    set_: SetOption = None,
    dry_run: DryRunOption = False,
    force: ForceOption = False,
    output: OutputOption = None,
    threads: ThreadsOption = None,
    build: Annotated[
        BuildPlace,
        typer.Option(help="Where a TensorRT engine is built; here: takes TensorRT and a GPU in this machine."),
    ] = BuildPlace.DEVICE,
    json: JsonOption = False,
) -> None:
    """Export the files to ship."""
    _chain("export", {**locals(), "build": build.value}, command="export")


@app.command(
    epilog="Examples: edgekd bench --device cpu; edgekd bench onnx onnx-int8; edgekd bench onnx-int8 --against onnxruntime"
)
def bench(
    files: Annotated[
        list[str] | None,
        typer.Argument(help="Two or more exports (target, id, tag or ONNX file) to measure in turn, in one run."),
    ] = None,
    recipe: RecipeOption = None,
    device: DeviceOption = None,
    format_: FormatOption = None,
    workspace: WorkspaceOption = WORKSPACE,
    data_root: DataRootOption = None,
    from_: StartOption = None,
    set_: SetOption = None,
    dry_run: DryRunOption = False,
    force: ForceOption = False,
    output: OutputOption = None,
    threads: BenchThreadsOption = None,
    runtime: RuntimeOption = None,
    against: Annotated[
        str | None,
        typer.Option("--against", help="Measure in turn with this: onnxruntime, trtexec or benchmark_app."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Measure latency and accuracy of the shipped files. Measures again each time; `run` reuses."""
    options = locals()
    named, rival, engine = options.pop("files"), options.pop("against"), options.pop("runtime")
    if engine is not None and engine != "all":
        options |= {"set_": [*(options["set_"] or []), f"bench.runtime={engine}"]}
    if threads is not None:
        options |= {"threads": None, "set_": [*(options["set_"] or []), f"bench.threads={threads}"]}
    if engine == "all":
        from edgekd.commands.every_runtime import refuse

        refuse(named, rival, options["format_"])
        _chain("runtimes", options, command="bench")
        return
    if named or rival:
        from edgekd.commands.in_turn import in_turn

        in_turn(named or [], rival, options)
        return
    _chain("bench", options, command="bench")


@recipes_app.command("ls")
def recipes_ls(json: JsonOption = False) -> None:
    """List the shipped recipes."""
    from edgekd.commands import recipes

    recipes.ls(json)


@recipes_app.command("show")
def recipes_show(
    recipe: Annotated[str, typer.Argument(help="File or shipped name.")],
    set_: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Print a recipe with every default filled in."""
    from edgekd.commands import recipes

    recipes.show(recipe, set_ or [], json)


@recipes_app.command("validate")
def recipes_validate(
    recipe: Annotated[str, typer.Argument(help="File or shipped name.")],
    set_: SetOption = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Build the networks and the taps, and find the data, too.")
    ] = False,
    data_root: DataRootOption = None,
    json: JsonOption = False,
) -> None:
    """Check a recipe without running it."""
    from edgekd.commands import recipes

    recipes.validate(recipe, set_ or [], deep, data_root or [], json)


@recipes_app.command("schema")
def recipes_schema() -> None:
    """Print the JSON Schema of recipes, for editors."""
    from edgekd.commands import recipes

    recipes.schema()


@recipes_app.command("cp")
def recipes_cp(
    recipe: Annotated[str, typer.Argument(help="Shipped name.")],
    to: Annotated[Path, typer.Argument(help="New file.")],
) -> None:
    """Copy a shipped recipe to a file of your own."""
    from edgekd.commands import recipes

    recipes.cp(recipe, to)


@app.command()
def formats(json: JsonOption = False) -> None:
    """List the export targets: what each needs, and whether it is usable here."""
    from edgekd.commands import listings

    listings.formats(json)


@devices_app.callback(
    invoke_without_command=True, epilog="Example: edgekd devices add desk --host me@orin --profile jetson-orin-nano"
)
def devices(context: typer.Context, json: JsonOption = False) -> None:
    """The devices that can be measured: list, add, show, remove."""
    from edgekd.commands import devices

    if context.invoked_subcommand is None:
        devices.listed(json)


@devices_app.command("ls")
def devices_ls(json: JsonOption = False) -> None:
    """List the devices, yours first: `edgekd devices` alone."""
    from edgekd.commands import devices

    devices.listed(json)


@devices_app.command("add", epilog="Example: edgekd devices add desk --host me@orin --profile jetson-orin-nano")
def devices_add(
    name: Annotated[str, typer.Argument(help="What to call it with --device.")],
    host: Annotated[
        str, typer.Option("--host", help="user@board, or a name of your SSH config, which keeps the keys.")
    ],
    profile: Annotated[str, typer.Option("--profile", help="What it is: a profile of `edgekd devices`, or a file.")],
    python: Annotated[str, typer.Option("--python", help="Its Python: of its PATH, or an absolute path.")] = "python3",
    folder: Annotated[str, typer.Option("--folder", help="Absolute path there. Default: ~/.cache/edgekd.")] = "",
    ssh_options: Annotated[str, typer.Option("--ssh-options", help="More options of ssh: '-p 2222 -i KEY'.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Replace one of that name.")] = False,
    json: JsonOption = False,
) -> None:
    """Add a board that SSH reaches. Nothing is connected to yet."""
    from edgekd.commands import devices

    devices.add(devices.board_of(name, host, profile, python, folder, ssh_options), force, json)


@devices_app.command("show", epilog="Example: edgekd devices show jetson-orin-nano")
def devices_show(
    name: Annotated[str, typer.Argument(help="Device, board of yours, or file.")], json: JsonOption = False
) -> None:
    """Show every fact of a device, with its source."""
    from edgekd.commands import devices

    devices.show(name, json)


@devices_app.command("remove", epilog="Example: edgekd devices remove desk")
def devices_remove(name: Annotated[str, typer.Argument(help="A board of yours.")], json: JsonOption = False) -> None:
    """Forget a board."""
    from edgekd.commands import devices

    devices.remove(name, json)


@app.command()
def models(json: JsonOption = False) -> None:
    """List the networks."""
    from edgekd.commands import listings

    listings.models(json)


@app.command()
def distillers(json: JsonOption = False) -> None:
    """List the distillation methods with their arguments; a reconstruction says so."""
    from edgekd.commands import listings

    listings.distillers(json)


@tools_app.command("ls")
def tools_ls(json: JsonOption = False) -> None:
    """List the tools, what each takes, and whether it is installed."""
    from edgekd.commands import tools

    tools.ls(json)


@tools_app.command("install", epilog="Example: edgekd tools install ethos-u")
def tools_install(
    tool: Annotated[str, typer.Argument(help="See `edgekd tools ls`.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Install a tool into an environment of its own: exact versions, every file checked by its SHA-256."""
    from edgekd.commands import tools

    tools.install(tool, yes, force, json)


@tools_app.command("doctor", epilog="Example: edgekd tools doctor litert")
def tools_doctor(
    tool: Annotated[str | None, typer.Argument(help="One tool; default: all.")] = None, json: JsonOption = False
) -> None:
    """Look at the installed tools: a missing or changed package is named (exit 5)."""
    from edgekd.commands import tools

    tools.doctor(tool, json)


@tools_app.command("remove", epilog="Example: edgekd tools remove rknn")
def tools_remove(tool: Annotated[str, typer.Argument(help="See `edgekd tools ls`.")], json: JsonOption = False) -> None:
    """Delete a tool's environment."""
    from edgekd.commands import tools

    tools.remove(tool, json)


@artifacts_app.command("ls")
def artifacts_ls(workspace: WorkspaceOption = WORKSPACE, json: JsonOption = False) -> None:
    """List the artifacts of a workspace."""
    from edgekd.commands import artifacts

    artifacts.ls(workspace, json)


@artifacts_app.command("show")
def artifacts_show(
    artifact: Annotated[str, typer.Argument(help="Id, unique prefix, tag, step of the current run, or `latest`.")],
    workspace: WorkspaceOption = WORKSPACE,
    json: JsonOption = False,
) -> None:
    """Show one artifact: parameters, inputs, metrics, files."""
    from edgekd.commands import artifacts

    artifacts.show(workspace, artifact, json)


@artifacts_app.command("verify")
def artifacts_verify(
    artifact: Annotated[str | None, typer.Argument(help="One artifact; default: all.")] = None,
    workspace: WorkspaceOption = WORKSPACE,
    json: JsonOption = False,
) -> None:
    """Recompute every hash; a changed byte is named (exit 6)."""
    from edgekd.commands import artifacts

    artifacts.verify(workspace, artifact, json)


@artifacts_app.command("tag")
def artifacts_tag(
    name: Annotated[str, typer.Argument(help="The tag.")],
    artifact: Annotated[str, typer.Argument(help="What it shall point at.")],
    workspace: WorkspaceOption = WORKSPACE,
) -> None:
    """Point a tag at an artifact; it is then never cleaned up."""
    from edgekd.commands import artifacts

    artifacts.tag(workspace, name, artifact)


@artifacts_app.command("gc")
def artifacts_gc(
    workspace: WorkspaceOption = WORKSPACE,
    yes: Annotated[
        bool, typer.Option("--yes", help="Delete. Without it: only say what would go, and how much.")
    ] = False,
    unfinished: Annotated[bool, typer.Option("--unfinished", help="Also the checkpoints of unfinished steps.")] = False,
    json: JsonOption = False,
) -> None:
    """Remove what no tag, no recipe's last run and no later artifact needs."""
    from edgekd.commands import artifacts

    artifacts.gc(workspace, yes, unfinished, json)


@app.command(epilog="Example: edgekd predict photo.png")
def predict(
    images: Annotated[list[Path], typer.Argument(help="Image files or folders.")],
    from_: FromOption = None,
    top: Annotated[int, typer.Option(min=1, help="Classes to show.")] = 3,
    workspace: WorkspaceOption = WORKSPACE,
    json: JsonOption = False,
) -> None:
    """Classify images with an exported file."""
    from edgekd.commands.predict import predict as work

    work(images, from_, top, workspace, json)


@app.command(epilog="Example: edgekd lint model.onnx --format trt")
def lint(
    file: Annotated[str, typer.Argument(help="ONNX file, or an artifact with one: export/tensorrt-int8.")],
    format_: Annotated[
        str | None, typer.Option("--format", "-f", help="Family or target whose rules hold; default: the artifact's.")
    ] = None,
    workspace: WorkspaceOption = WORKSPACE,
    json: JsonOption = False,
) -> None:
    """Hold an ONNX file to the rules of a runtime, and to TensorRT-RTX where it is installed."""
    from edgekd.commands.lint import lint as work

    work(file, format_, workspace, json)


@app.command(name="eval", epilog="Example: edgekd eval student --min-top1 90")
def evaluate(
    artifact: Annotated[
        str | None, typer.Argument(help="Artifact or step; default: the last step of the current run with predictions.")
    ] = None,
    min_top1: Annotated[float | None, typer.Option(help="Exit 3 below this top-1 in percent.")] = None,
    against: Annotated[str | None, typer.Option(help="Compare with this artifact or step on the same images.")] = None,
    max_drop: Annotated[
        float | None, typer.Option(help="Exit 3 when top-1 drops by more points than this against --against.")
    ] = None,
    workspace: WorkspaceOption = WORKSPACE,
    json: JsonOption = False,
) -> None:
    """Top-1, per-class recall and paired difference of an artifact, from the answers stored in it."""
    from edgekd.commands.evaluate import evaluate as work

    work(artifact, min_top1, against, max_drop, workspace, json)


@app.command(epilog="Examples: edgekd parity; edgekd parity --tensors --images 2000")
def parity(
    recipe: RecipeOption = None,
    from_: FromOption = None,
    images: Annotated[int, typer.Option(min=2, help="Test images, evenly spread; the golden ones besides.")] = 512,
    tensors: Annotated[bool, typer.Option("--tensors", help="Compare and show every tensor of every file.")] = False,
    workspace: WorkspaceOption = WORKSPACE,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
    json: JsonOption = False,
) -> None:
    """Run torch and every file again on the same images: input, labels, graph, int8; names the first tensor that diverges."""
    from edgekd.commands.parity import ParityOptions
    from edgekd.commands.parity import parity as work

    work(ParityOptions(recipe, from_, images, tensors, workspace, threads, json))


@app.command(epilog="Examples: edgekd ledger; edgekd ledger --from latest; edgekd ledger --set gate.max_drop_pp=0.5")
def ledger(
    recipe: RecipeOption = None,
    from_: ChainOption = None,
    workspace: WorkspaceOption = WORKSPACE,
    data_root: DataRootOption = None,
    set_: SetOption = None,
    json: JsonOption = False,
) -> None:
    """What each step lost, from teacher to board, on the same test images; exit 3 where a step fails the gate."""
    from edgekd.commands.ledger import LedgerOptions
    from edgekd.commands.ledger import ledger as work

    work(LedgerOptions(recipe, from_, workspace, data_root, set_, json))


@app.command(epilog="Examples: edgekd sensitivity; edgekd sensitivity --images 5000 --set quantize.calibrate=mse")
def sensitivity(
    recipe: RecipeOption = None,
    from_: ChainOption = None,
    set_: SetOption = None,
    scheme: Annotated[
        str | None, typer.Option(help="u8s8 or s8-trt. Default: the first that the recipe makes.")
    ] = None,
    images: Annotated[
        int, typer.Option(min=2, help="Images of validation, or of train where nothing is held out.")
    ] = 1000,
    workspace: WorkspaceOption = WORKSPACE,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder of the table and the picture. Default: in the workspace."),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
    json: JsonOption = False,
) -> None:
    """Quantize one layer at a time and show what each costs; test is not touched."""
    from edgekd.commands.sensitivity import SensitivityOptions
    from edgekd.commands.sensitivity import sensitivity as work

    work(SensitivityOptions(recipe, from_, set_, scheme, images, workspace, output, threads, json))


@app.command(epilog="Example: edgekd pareto --output tables/")
def pareto(
    workspace: WorkspaceOption = WORKSPACE,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder of the table and the pictures. Default: in the workspace."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Accuracy, latency and energy of everything measured: who is beaten on all of them, by intervals; a table and a plot."""
    from edgekd.commands.pareto import pareto as work

    work(workspace, output, json)


@app.command()
def report(workspace: WorkspaceOption = WORKSPACE, output: OutputOption = None, json: JsonOption = False) -> None:
    """Write the report of the current run: one HTML file and the same facts as JSON."""
    from edgekd.commands.report import report as work

    work(workspace, output, json)


@app.command(epilog="Example: edgekd init --data photos")
def init(
    data: Annotated[
        Path, typer.Option("--data", help="Your images: <class>/*, train|val|test/<class>/*, or image Parquet.")
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The recipe to write. Default: NAME.yaml, here.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the recipe. Default: the folder's.")] = None,
    size: Annotated[int | None, typer.Option(help="Side in pixels. Default: chosen by the images.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a recipe that is there.")] = False,
    json: JsonOption = False,
) -> None:
    """Look at your own images (classes, sizes, duplicates, broken files) and write a recipe for them."""
    from edgekd.commands.init import init as work

    work(data, output, name, size, force, json)


@app.command(
    epilog="Examples: edgekd compare --recipe quickstart --methods kd,afd,rtk --seeds 3 --epochs 10; "
    "edgekd compare -r my.yaml --methods 'rtk:beta=100:k=3,rtk:centre=false,sum:of=[{use: rtk}, {use: dkd}]' --seeds 100-109"
)
def compare(
    methods: Annotated[
        str,
        typer.Option(
            "--methods",
            "-m",
            help="Methods, separated by commas; arguments behind colons: ce,kd,rtk:beta=50:k=3. Values are YAML (quote the whole "
            "list where a value has brackets); the typed text is the name in the table. Arguments that the recipe's `distill` "
            "gives hold for the method of that name. `ce`, `kd` and each method's own loss without its distillation term "
            "are run beside them.",
        ),
    ],
    recipe: RecipeOption = None,
    seeds: Annotated[
        str, typer.Option(help="A count (5: seeds 0 to 4), a range (100-109) or seeds (3,7); of the students alone.")
    ] = "5",
    epochs: EpochsOption = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            min=0.01, help="Wall time for everything instead: each method is timed, then all get as many epochs."
        ),
    ] = None,
    select: Annotated[
        str | None, typer.Option(help="Weights to test: `last` epoch, or `best` on validation. Default: the recipe's.")
    ] = None,
    workspace: WorkspaceOption = WORKSPACE,
    data_root: DataRootOption = None,
    set_: SetOption = None,
    dry_run: DryRunOption = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder of the table and the plot. Default: in the workspace.")
    ] = None,
    threads: ThreadsOption = None,
    json: JsonOption = False,
) -> None:
    """Compare methods over seeds, all else equal: paired differences with 95 % intervals, and what they allow to be said."""
    from edgekd.commands.compare import CompareOptions
    from edgekd.commands.compare import compare as work
    from edgekd.commands.students import Asked

    asked = Asked(recipe, workspace, data_root, set_, threads)
    work(CompareOptions(asked, methods, seeds, epochs, minutes, select, dry_run, output, json))


@app.command(
    epilog="Examples: edgekd tune -r my.yaml --param distill.beta=log:5..500 --trials 20; "
    "kinds: float:0..1, log:0.01..1, int:2..9, choice:topk,all. Trials are judged on validation (data.val > 0), never on test. "
    "A teacher imported with `trained_on: train+val` has seen the validation images: its students look better there than they are."
)
def tune(
    param: Annotated[
        list[str],
        typer.Option("--param", "-p", help="What to vary, and in which range: a.b=kind:range; may be repeated."),
    ],
    recipe: RecipeOption = None,
    trials: Annotated[int, typer.Option(min=1, max=10_000, help="Students to train.")] = 20,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Of the search.")] = 0,
    epochs: EpochsOption = None,
    workspace: WorkspaceOption = WORKSPACE,
    data_root: DataRootOption = None,
    set_: SetOption = None,
    threads: ThreadsOption = None,
    json: JsonOption = False,
) -> None:
    """Search values of the recipe that are best on validation (Optuna; pip install 'edgekd[tune]')."""
    from edgekd.commands.students import Asked
    from edgekd.commands.tune import TuneOptions
    from edgekd.commands.tune import tune as work

    work(TuneOptions(Asked(recipe, workspace, data_root, set_, threads), param, trials, seed, epochs, json))


class BundleKind(StrEnum):
    """What a bundle is for."""

    DEPLOY = "deploy"
    BENCH = "bench"


@bundle_app.callback()
def bundle(
    context: typer.Context,
    from_: StartOption = None,
    format_: Annotated[
        str | None, typer.Option("--format", "-f", help="Target or family. Default: the last one exported.")
    ] = None,
    kind: Annotated[
        BundleKind, typer.Option(help="deploy: no test image in it. bench: with the test images, as raw bytes.")
    ] = BundleKind.DEPLOY,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder, or FILE.tar. Default: in the workspace.")
    ] = None,
    sign: Annotated[
        Path | None, typer.Option(help="Sign with this private key (edgekd bundle keygen; pip install 'edgekd[sign]').")
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", "-d", help="Device, or family, that it is for, instead of the recipe's.")
    ] = None,
    workspace: WorkspaceOption = WORKSPACE,
    data_root: DataRootOption = None,
    json: JsonOption = False,
) -> None:
    """Write what a bare board needs to check, measure or use an exported model; the same inputs give the same bytes."""
    if context.invoked_subcommand is not None:
        return
    from edgekd.commands.bundle import BundleOptions
    from edgekd.commands.bundle import bundle as work

    work(BundleOptions(from_, format_, kind.value, output, sign, device, workspace, data_root, json))


@bundle_app.command("keygen", epilog="Example: edgekd bundle keygen ~/.config/edgekd/key.pem")
def bundle_keygen(
    path: Annotated[Path, typer.Argument(help="New file of the private key; PATH.pub gets the public one.")],
    json: JsonOption = False,
) -> None:
    """Make an ed25519 key pair to sign bundles with, and print the public key."""
    from edgekd.commands import signing

    signing.keygen(path, json)


@bundle_app.command("verify", epilog="Example: edgekd bundle verify shipped.tar --public-key key.pem.pub")
def bundle_verify(
    path: Annotated[Path, typer.Argument(help="Folder or tar.")],
    public_key: Annotated[
        str | None, typer.Option("--public-key", help="The maker's public key: hex or file. Without: hashes alone.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Check every hash of a bundle, and with a public key its signature; a changed byte is named (exit 6)."""
    from edgekd.commands import bundle_files

    bundle_files.verify(path, public_key, json)


@app.command(epilog="Example: edgekd lineage bench/onnx-int8@cpu --verify")
def lineage(
    artifact: Annotated[str, typer.Argument(help="Id, unique prefix, tag, step of the current run, or `latest`.")],
    verify: Annotated[
        bool, typer.Option("--verify", help="Recompute every hash; what differs is named (exit 6).")
    ] = False,
    workspace: WorkspaceOption = WORKSPACE,
    data_root: DataRootOption = None,
    json: JsonOption = False,
) -> None:
    """Where a figure comes from: every step from the data set to it, with its key, digest, version and host."""
    from edgekd.commands.lineage import lineage as work

    work(artifact, verify, workspace, data_root, json)


@app.command(epilog="Examples: edgekd explain bench/onnx@cpu prod; edgekd explain before.onnx after.onnx")
def explain(
    a: Annotated[str, typer.Argument(help="Artifact, tag, step, run, artifact's folder, ONNX file, or a result.json.")],
    b: Annotated[str, typer.Argument(help="Likewise.")],
    workspace: WorkspaceOption = WORKSPACE,
    json: JsonOption = False,
) -> None:
    """Why two things are not the same: the first step that differs, what differs in it, and what follows from it."""
    from edgekd.commands.explain import explain as work

    work(a, b, workspace, json)


@app.command(epilog="Examples: edgekd reproduce student; edgekd reproduce bench/onnx-int8@cpu --bench-only")
def reproduce(
    artifact: Annotated[str, typer.Argument(help="Id, unique prefix, tag, step of the current run, or `latest`.")],
    bench_only: Annotated[
        bool, typer.Option("--bench-only", help="Measure again; everything before is taken as it was sealed.")
    ] = False,
    tolerance: Annotated[
        float, typer.Option(help="Largest ratio of two median latencies, either way; above 1.")
    ] = 1.25,
    workspace: WorkspaceOption = WORKSPACE,
    data_root: DataRootOption = None,
    json: JsonOption = False,
) -> None:
    """Make it again from the recorded parameters, beside the workspace, and say: same, within noise, or different (exit 3)."""
    from edgekd.commands.reproduce import ReproduceOptions
    from edgekd.commands.reproduce import reproduce as work

    work(ReproduceOptions(artifact, bench_only, tolerance, workspace, data_root, json))


@app.command(epilog="Examples: edgekd doctor; edgekd doctor --device desk")
def doctor(
    device: Annotated[str | None, typer.Option("--device", "-d", help="Look at this device instead.")] = None,
    workspace: WorkspaceOption = WORKSPACE,
    data_root: DataRootOption = None,
    json: JsonOption = False,
) -> None:
    """Look at this machine: versions, CPU, compiler, data, workspace; what is missing and the line that mends it."""
    if device is not None:
        from edgekd.commands.doctor_device import doctor_device

        doctor_device(device, json)
        return
    from edgekd.commands.doctor import doctor as work

    work(workspace, data_root or [], json)


# The base of typer's usage errors. It is click's, and newer versions of typer bring their own click: no one public name.
Misuse = cast("type[typer.BadParameter]", typer.BadParameter.__mro__[1])


def main() -> None:
    """Entry point: every expected failure becomes one screen and its exit code.

    `app()` is not called: it turns Ctrl-C and a closed pipe into exits of its own before they can be told apart.
    """
    try:
        if (
            "LOCAL_RANK" not in os.environ
        ):  # torchrun ends its workers itself; blocked in a collective they run no Python
            signal.signal(signal.SIGTERM, _interrupt)
        command = typer.main.get_command(app)
        with command.make_context("edgekd", sys.argv[1:]) as context:
            command.invoke(context)
    except Misuse as error:
        _misused(error)
        sys.exit(error.exit_code)
    except typer.Exit as stop:
        sys.exit(stop.exit_code)
    except EdgekdError as error:
        _say(error)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        typer.echo("interrupted; what was finished is kept, the same command goes on from there", err=True)
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        # Not sys.exit: a Ctrl-C that fell into code run by a C library makes Python end by the signal instead of a code.
        os._exit(130)
    except BrokenPipeError:  # the reader of a pipe went away: no error of ours
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:  # the machine refuses outside a stage: a full or read-only workspace, a file gone
        where, found = str(error.filename or "workspace"), error.strerror or str(error)
        if error.errno == errno.ENAMETOOLONG:
            _say(UsageError(f"{where[:40]}...", found, "a name that a file can have"))
            sys.exit(UsageError.exit_code)
        _say(StageFailed(where, found, "a readable, writable workspace"))
        sys.exit(StageFailed.exit_code)


def _interrupt(number: int, frame: object) -> NoReturn:
    """A request to end is obeyed as Ctrl-C is, so that a worker does not go on alone; a second one ends at once."""
    signal.signal(number, signal.SIG_DFL)
    raise KeyboardInterrupt


def _misused(error: typer.BadParameter) -> None:
    """A call that the command line does not have: the usage text of typer."""
    error.show()
    path = error.ctx.command_path if error.ctx is not None else "edgekd"
    _document(UsageError(path, error.format_message(), hint=f"{path} --help"))


def _say(error: EdgekdError) -> None:
    if not error.told:
        results.say_error(error)
    _document(error)


def _document(error: EdgekdError) -> None:
    if "--json" in sys.argv:
        results.print_json({"error": results.error_fields(error)})


if __name__ == "__main__":
    main()
