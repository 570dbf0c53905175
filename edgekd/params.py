"""Each stage's parameters as a frozen model: what is in one is in its step's key."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from edgekd.recipe import Fit


class Params(BaseModel):
    """Base of every stage's parameters: frozen, no unknown key; what is in it is in the step's key."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Roles(Params):
    """How the source splits become train, val and test: val images held out of train, train subset size (None = all)."""

    val: int = 0
    train: int | None = None
    seed: int = 0


class DataParams(Params):
    """Stage `data`: which source, decoded how. `sources` is the digest of the source files' bytes."""

    use: str
    args: dict[str, Any] = {}
    size: int | None = None
    resize: str | None = None
    duplicates: Literal["error", "drop_train"] = "error"
    layout: str = ""
    sources: str = ""


class TeacherParams(Params):
    """Stage `train`: a network fitted with labels alone, or an imported checkpoint."""

    model: str
    fit: Fit | None = None
    checkpoint: str | None = None  # file name, for people
    checkpoint_sha256: str | None = None
    normalize: str = "dataset"
    expect_top1: float | None = None
    trained_on: Literal["train", "train+val"] = "train"
    augment: tuple[str, ...] | None = None  # None: the data set's own
    roles: Roles
    seed: int


class DistillParams(Params):
    """Which method, its constructor's arguments, and tap overrides."""

    use: str
    args: dict[str, Any] = {}


class StudentParams(Params):
    """Stage `distill`: the student fitted under a distiller."""

    model: str
    fit: Fit
    distill: DistillParams
    normalize: str = "dataset"
    augment: tuple[str, ...] | None = None
    roles: Roles
    seed: int


class GraphParams(Params):
    """Stage `graph`: student -> canonical fp32 ONNX, dynamic batch, parity-checked."""

    opset: int = 18
    simplify: Literal["onnxsim", "none"] = "onnxsim"
    golden: int = 16
    roles: Roles


class QuantizeParams(Params):
    """Stage `quantize`: canonical graph -> one scheme."""

    scheme: str
    use: str = "ptq"
    args: dict[str, Any] = {}  # the plugin's own arguments: calibrate, ...
    images: int = 512
    roles: Roles
    seed: int


class ExportParams(Params):
    """Stage `export`: a graph of one scheme -> the files of one target (the profile of export/<target>.yaml, whole)."""

    target: str
    family: str
    exporter: str
    scheme: str
    args: dict[str, Any] = {}
    parity: dict[str, float] = {}  # bounds by name; edgekd's own where a name is missing


class BenchParams(Params):
    """Stage `bench`: the shipped files on one device, with what the two profiles say of it."""

    target: str
    device: str
    runtime: str
    provider: str
    transport: str
    golden_error_to_range: float  # largest error of a golden logit / range of the golden logits
    profile: Literal["smoke", "quick"] = "quick"
    threads: int = 1
    roles: Roles
