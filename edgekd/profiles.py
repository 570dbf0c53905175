"""Device and Target: the data classes of `devices/*.yaml` and `export/*.yaml`, and where such files are found."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, cast

from annotated_types import Ge, Interval
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from edgekd import boards, yamlsource
from edgekd.errors import MissingTool, RecipeError, nearest
from edgekd.recipe import NAME

# Two float32 runtimes add the same products in another order: 1e-7 to 1e-6 of the range is seen on CIFAR networks;
# a wrong padding, a missing ReLU or stale BatchNorm statistics give 1e-2 and more.
FP32_MAX_ERROR_TO_RANGE = 1.0e-4
# A sound u8s8 graph of such networks gives 30 to 44 dB and 99 % or more; ranges broken by one outlier, onnxruntime's
# "distribution" calibration (-2 dB) or saturated ReLUs fall far below both bounds.
INT8_MIN_AGREEMENT_PERCENT = 98.0
INT8_MIN_SQNR_DB = 25.0
# float16 has 11 bits: 67 dB is seen on a CIFAR ResNet-20, 56 and 65 on MobileNetV2 and ShuffleNetV1 of digits. Below 50 dB
# something else than rounding is at work.
FP16_MIN_AGREEMENT_PERCENT = 99.5
FP16_MIN_SQNR_DB = 50.0
# The file does in integers what the trained network did in rounded floats: they part where a value falls on the border of two
# steps, one step each time. 58 to 72 dB is seen on resnet8; with ranges other than those trained it is 37. In 54 layers of a
# MobileNetV2 such steps add up, from none in the first layers to 2 of 10,000 values in the 14th: 39.9 dB.
FAKE_QUANT_MIN_AGREEMENT_PERCENT = 99.9
FAKE_QUANT_MIN_SQNR_DB = 38.0
# A network that was trained rounded is not its own float weights: 97.9 % and 23 dB are seen on a resnet8 of CIFAR-10 whose rounded
# form is the better one. What it is held to is above; this only catches weights of something else.
QAT_PARITY = {"min_agreement_percent": 95.0, "min_sqnr_db": 15.0}
# An int8 file may meet another processor than its maker's: one step of a scale, about 1 % of the range, carried through a few
# layers. A wrong normalisation or channel order errs by 20 % and more.
INT8_GOLDEN_ERROR_TO_RANGE = 0.05
# float16 sums on another device: 50 dB, the bound above, are 0.3 % of the signal.
FP16_GOLDEN_ERROR_TO_RANGE = 0.01
FP16_PARITY = {"min_agreement_percent": FP16_MIN_AGREEMENT_PERCENT, "min_sqnr_db": FP16_MIN_SQNR_DB}


class Facts(BaseModel):
    """Base of everything in a profile: frozen, unknown keys forbidden."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Profile(Facts):
    """Base of both kinds."""

    name: str = Field(pattern=NAME)  # part of a step's name, which is a folder
    family: str
    description: str = ""


class Parity(Facts):
    """How near to its source an exported file must stay. A target may ask for more than edgekd does, not for less."""

    max_error_to_range: Annotated[float, Interval(gt=0, le=FP32_MAX_ERROR_TO_RANGE)] = FP32_MAX_ERROR_TO_RANGE
    min_agreement_percent: Annotated[float, Interval(ge=INT8_MIN_AGREEMENT_PERCENT, le=100)] = (
        INT8_MIN_AGREEMENT_PERCENT
    )
    min_sqnr_db: Annotated[float, Ge(INT8_MIN_SQNR_DB)] = INT8_MIN_SQNR_DB


class Target(Profile):
    """What to export into: `export/<name>.yaml`.

    Attributes:
        default: What its family's name stands for where several of its targets have the precision that is meant.
        source: What it is made from: `graph`, `quantized` (the graph of its scheme), `program` (a `torch.export` program) or
            another target's files (`export/litert-int8`). Left out: `graph` of scheme `none`, else `quantized`.
        tool: The tool chain that makes it: its accuracy is measured there on val and test. Left out: edgekd makes it.
        kind: What its figures are worth (`this CPU`, `simulator`, `estimated`); said wherever they are shown.
    """

    exporter: str
    scheme: str
    runtimes: list[str]
    default: bool = False
    source: str = Field("", pattern=r"^(|graph|quantized|program|export/[A-Za-z0-9._-]+)$")
    tool: str | None = None
    kind: Literal["this CPU", "simulator", "emulated", "estimated"] | None = None
    parity: Parity = Parity()
    args: dict[str, Any] = {}

    @property
    def made_from(self) -> str:
        """The step that it is made from."""
        source = self.source or ("graph" if self.scheme == "none" else "quantized")
        return f"quantized/{self.scheme}" if source == "quantized" else source

    @property
    def bounds(self) -> dict[str, float]:
        """The bounds of `parity` that its scheme is held to."""
        names = ("max_error_to_range",) if self.scheme == "none" else ("min_agreement_percent", "min_sqnr_db")
        own = {name: getattr(self.parity, name) for name in names}
        unset = set(FP16_PARITY) - self.parity.model_fields_set if self.scheme == "fp16" else set()
        return own | {name: FP16_PARITY[name] for name in unset}

    @property
    def golden_error_to_range(self) -> float:
        """Largest error of a golden logit on a device / range of the golden logits."""
        other = FP16_GOLDEN_ERROR_TO_RANGE if self.scheme == "fp16" else INT8_GOLDEN_ERROR_TO_RANGE
        return self.bounds.get("max_error_to_range", other)

    @model_validator(mode="after")
    def _no_idle_bound(self) -> Self:
        idle = sorted(self.parity.model_fields_set - set(self.bounds))
        if idle:
            raise ValueError(
                f"parity.{idle[0]} is no bound of scheme {self.scheme}, which has {', '.join(self.bounds)}"
            )
        weak = [name for name, least in FP16_PARITY.items() if self.scheme == "fp16" and self.bounds[name] < least]
        if weak:
            raise ValueError(f"parity.{weak[0]} of scheme fp16 should be at least {FP16_PARITY[weak[0]]:g}")
        return self


class RuntimeFacts(Facts):
    """How one runtime runs on a device; `needs`: what must be installed there; `chip`: for which one a file of it must be made, as a
    target's `args` name it, where files are for one chip: left out, the device's family.
    """

    provider: str
    options: dict[str, Any] = {}
    needs: str = ""
    chip: str = ""


class Match(Facts):
    """How a machine is told to be this device.

    Attributes:
        device_tree: What the text of its device tree's `model` begins with, one or several.
        device_file: Pattern of a file that the chip's driver makes, `/dev/accel/accel*`; empty: every machine has the chip.
    """

    device_tree: tuple[str, ...] = ()
    device_file: str = ""

    @field_validator("device_tree", mode="before")
    @classmethod
    def _several(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


class Device(Profile):
    """What to run on: `devices/<name>.yaml`; each fact has its source.

    Attributes:
        transport: `local`, or `ssh`: a board of the user's, whose own file says where it is.
        runtimes: In the order of preference.
        chip: Of the board.
        memory_mib: Of the board, MiB; shared with its accelerator where it has no own.
        power: How power is read: `use`, a probe of the runner, and its arguments.
        power_modes: {id: name} as the board's own tool says them.
        kind: `emulated`: its times are no latencies; left out: a real one.
        host, python, folder, ssh_options: Of a user's board (see `edgekd.boards`), in no shipped file.
        profile: Of a user's board: what it is.
        reference: Of a user's board: by what `device` finds it.
    """

    transport: str
    runtimes: dict[str, RuntimeFacts]
    precisions: list[str]
    chip: str = ""
    memory_mib: Annotated[int, Ge(1)] | None = None
    match: Match = Match()
    power: dict[str, Any] | None = None
    power_modes: dict[str, str] | None = None
    kind: Literal["board", "emulated"] | None = None
    profile: str = ""
    host: str | None = None
    python: str | None = None
    folder: str | None = None
    ssh_options: tuple[str, ...] = ()
    reference: str | None = None
    sources: dict[str, str] = {}


P = TypeVar("P", bound=Profile)


def precision(scheme: str) -> Literal["fp32", "fp16", "int8"]:
    """The precision that a scheme computes in; a scheme that is neither `none` nor `fp16` quantizes."""
    return "fp32" if scheme == "none" else "fp16" if scheme == "fp16" else "int8"


def shipped(folder: str) -> Path:
    """The folder of shipped `recipes`, `export` or `devices`: inside the wheel, or beside the package in a checkout."""
    package = Path(__file__).resolve().parent
    for candidate in (package / "_shipped" / folder, package.parent / folder):
        if candidate.is_dir():
            return candidate
    raise MissingTool(
        folder, "the shipped files are not there", "a whole edgekd", "pip install --force-reinstall edgekd"
    )


def targets() -> dict[str, Target]:
    """All shipped targets by name."""
    return {target.name: target for target in _all("export", Target)}


def devices() -> dict[str, Device]:
    """All shipped devices by name."""
    return {device.name: device for device in _all("devices", Device)}


def target(name: str, where: str = "export") -> Target:
    """One target by name, or a user's own file by path (`./my.yaml`).

    Raises:
        RecipeError: No such target.
    """
    return _one(name, where, targets(), Target)


def device(name: str, where: str = "bench.device") -> Device:
    """One device: a user's own file by path, a board of the user's, or a shipped profile, in this order.

    Raises:
        RecipeError: No such device, or its file is wrong.
    """
    if not name.endswith((".yaml", ".yml")):
        own = boards.boards()
        return on_board(own[name]) if name in own else _one(name, where, devices(), Device)
    found = _one(name, where, {}, Device)
    if found.host is None:
        return found
    board = {"name": found.name, "profile": found.name, "host": found.host, "ssh_options": list(found.ssh_options)}
    more = {key: value for key in ("python", "folder") if (value := getattr(found, key))}
    return _reached(found, boards.checked({**board, **more}, name), name)


def on_board(board: boards.Board) -> Device:
    """A user's board with the facts of its profile.

    Raises:
        RecipeError: It names no profile.
    """
    return _reached(_one(board.profile, str(boards.path_of(board.name)), devices(), Device), board, board.name)


def _reached(facts: Device, board: boards.Board, reference: str) -> Device:
    own = {"name": board.name, "host": board.host, "python": board.python, "folder": board.folder or None}
    options = (*boards.ssh_options(), *board.ssh_options)
    more = {"profile": facts.name, "reference": reference, "transport": "ssh", "ssh_options": options}
    return facts.model_copy(update={**own, **more})


def _one(name: str, where: str, known: dict[str, P], kind: type[P]) -> P:
    listing = "edgekd formats" if kind is Target else "edgekd devices"
    if name.endswith((".yaml", ".yml")):
        if not Path(name).is_file():
            raise RecipeError(where, f"no file {name}", f"a {kind.__name__.lower()} profile, or a name", listing)
        return _read(Path(name), kind)
    if name not in known:
        raise RecipeError(where, f"unknown name {name!r}", nearest(name, known), listing)
    return known[name]


def _all(folder: str, kind: type[P]) -> Iterator[P]:
    for path in sorted(shipped(folder).glob("*.yaml")):
        yield cast("P", _kept(path, kind))


@cache  # a command asks for all of them some ten times; they are frozen and shipped
def _kept(path: Path, kind: type[Profile]) -> Profile:
    return _read(path, kind)


def _read(path: Path, kind: type[P]) -> P:
    source = yamlsource.read(path)
    try:
        return kind.model_validate(source.data)
    except ValidationError as error:
        item = error.errors()[0]
        place = tuple(item["loc"])
        raise RecipeError(
            source.place(place),
            f"{'.'.join(map(str, place)) or path.name}: {item['msg']}",
            f"a {kind.__name__} profile",
        ) from error
