"""Each stage's parameters as a frozen model: what is in one is in its step's key."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

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
    weights: str | None = Field(default=None, exclude_if=lambda weights: weights is None)  # what `fit` starts from
    weights_sha256: str | None = Field(default=None, exclude_if=lambda digest: digest is None)
    normalize: str = "dataset"
    expect_top1: float | None = None
    trained_on: Literal["train", "train+val"] = "train"
    role: Literal["teacher", "student"] = Field(
        default="teacher", exclude_if=lambda role: role == "teacher"
    )  # the step's name
    augment: tuple[str, ...] | None = None  # None: the data set's own
    roles: Roles
    seed: int


class ViewsParams(Params):
    """Stage `views`: the teacher's answers to fixed views of the training images. No method and none of its weights is in
    it, so that methods which read the same taps share them.
    """

    views: int  # of each image
    taps: Literal["block", "stage"] | None = None  # None: logits alone
    reductions: tuple[str, ...] = ()
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"  # these three as the student is fitted
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    compile: Literal["auto"] | bool = "auto"
    augment: tuple[str, ...] | None = None  # None: the data set's own
    roles: Roles
    seed: int

    @property
    def fit(self) -> Fit:
        """As a fit whose every epoch is one view."""
        return Fit(epochs=self.views, device=self.device, precision=self.precision, compile=self.compile)  # type: ignore[call-arg]


class DistillParams(Params):
    """Which method, its constructor's arguments, and how many fixed views (None: the teacher looks on live)."""

    use: str
    args: dict[str, Any] = {}
    cached_views: int | None = Field(None, exclude_if=lambda value: value is None)


class StudentParams(Params):
    """Stage `distill`: the student fitted under a distiller."""

    model: str
    fit: Fit
    distill: DistillParams
    normalize: str = "dataset"
    augment: tuple[str, ...] | None = None
    roles: Roles
    seed: int


class QatParams(StudentParams):
    """Stage `qat`: the student fitted on, rounded as the file of a scheme; `normalize` is the student's own."""

    scheme: str
    calibrate: str
    images: int
    learn_ranges: bool


class GraphParams(Params):
    """Stage `graph`: student -> canonical fp32 ONNX, dynamic batch, parity-checked."""

    opset: int = 18
    simplify: Literal["onnxsim", "none"] = "onnxsim"
    golden: int = 16
    roles: Roles


class AdoptParams(Params):
    """Stage `adopt`: an ONNX file from elsewhere as the graph, or as the graph of one scheme when it is quantized."""

    onnx: str  # where it was found; its bytes are in the key, its name is not
    onnx_sha256: str | None = None
    scheme: str = "none"
    normalize: str | None = None  # None: as the file itself says
    expect_top1: float | None = None
    trained_on: Literal["train", "train+val"] = "train"
    opset: int = 18  # the least; a file of a later one stays as it is
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


class ProgramParams(Params):
    """Stage `program`: student -> a `torch.export` program of batch 1, with the calibration images beside it."""

    golden: int = 16
    images: int
    roles: Roles
    seed: int


class ExportParams(Params):
    """Stage `export`: a graph of one scheme -> the files of one target (the profile of export/<target>.yaml, whole).

    A target that a tool chain makes is evaluated where it is made: it has a `tool`, and says which images it is calibrated on.
    """

    target: str
    family: str
    exporter: str
    scheme: str
    args: dict[str, Any] = {}
    parity: dict[str, float] = {}  # bounds by name; edgekd's own where a name is missing
    tool: str | None = Field(default=None, exclude_if=lambda tool: tool is None)
    kind: str | None = Field(default=None, exclude_if=lambda kind: kind is None)  # what its figures are worth
    images: int | None = Field(default=None, exclude_if=lambda images: images is None)  # to calibrate with
    roles: Roles | None = Field(default=None, exclude_if=lambda roles: roles is None)
    seed: int | None = Field(default=None, exclude_if=lambda seed: seed is None)


class BenchParams(Params):
    """Stage `bench`: the shipped files on one device, with what the two profiles say of it."""

    target: str
    device: str
    runtime: str
    provider: str
    transport: str
    golden_error_to_range: float  # largest error of a golden logit / range of the golden logits
    profile: Literal["smoke", "quick", "mlperf"] = "quick"
    threads: int = 1
    options: dict[str, Any] | None = Field(default=None, exclude_if=lambda options: options is None)  # the engine's own
    probes: dict[str, Any] | None = Field(default=None, exclude_if=lambda probes: probes is None)  # {power: {...}}
    kind: Literal["emulated"] | None = Field(default=None, exclude_if=lambda kind: kind is None)  # of the device
    board: str | None = Field(default=None, exclude_if=lambda board: board is None)  # the user's name of it: in no key
    roles: Roles
