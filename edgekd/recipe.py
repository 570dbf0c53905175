"""A recipe: one YAML file that says the whole chain, as frozen models; the wrong key is named with the nearest right one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from edgekd import yamlsource
from edgekd.errors import RecipeError, nearest

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$"
MAX_TARGETS = 64  # more than there are kinds of boards
SHOWN = 80  # characters of a wrong value in an error


def _absent(value: object) -> bool:
    """Whether a key is left out of dumps: recipes and keys without it are those from before it was known."""
    return value is None


class Section(BaseModel):
    """Base of every recipe section: frozen, unknown keys forbidden, no value of another type taken silently."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class PluginSection(Section):
    """A section with `use: <plugin>`; the plugin's own arguments stand beside it and are checked against its signature."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True, allow_inf_nan=False)

    use: str

    @property
    def args(self) -> dict[str, Any]:
        """The plugin's own arguments as written."""
        return dict(self.model_extra or {})


class Data(PluginSection):
    """Which images, and how they are split and changed on the way in."""

    val: int = Field(
        0,
        ge=0,
        description="images held out of train, 0 = protocol of the papers; of data with a val split: how many of it, 0 = all",
    )
    train: int | None = Field(None, ge=2, description="use only so many training images")
    size: int | None = Field(None, ge=4, le=1024, description="side of the square that images are resized to")
    resize: Literal["fit-crop", "squash", "photo"] | None = Field(
        None, description="photo: shorter side to 8/7 of size, then the centre; whole photos are kept for rrc"
    )
    augment: list[str] | None = Field(None, description="crop<k> or rrc, and flip; the data set's own by default")
    duplicates: Literal["error", "drop_train"] = Field("error", description="exact duplicates across train and test")


class Fit(Section):
    """How a network is fitted. Defaults: the standard CIFAR protocol of the distillation literature."""

    epochs: int = Field(240, ge=1)
    batch_size: int = Field(64, ge=2)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(0.05, gt=0)
    schedule: Literal["step", "cosine", "one-cycle"] = "step"
    milestones: list[int] | None = Field(
        None, description="epochs after which lr is divided by 10; default 5/8, 3/4 and 7/8 of the run"
    )
    warmup: float = Field(0, ge=0, description="epochs of linear warm-up")
    weight_decay: float = Field(5e-4, ge=0)
    label_smoothing: float = Field(0, ge=0, lt=1)
    class_weights: Literal["balanced"] | None = Field(
        None, exclude_if=_absent, description="balanced: labels of rare classes weigh more in the loss"
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        "auto", description="auto: cuda where torch can use it, else cpu; mps only when named"
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    compile: Literal["auto"] | bool = "auto"
    ema: float = Field(0, ge=0, lt=1, description="decay per step of the averaged weights; 0 = off")
    keep: Literal["last", "best"] = Field(
        "last",
        exclude_if=lambda kept: kept == "last",
        description="weights of the last epoch, or of the best on validation (the first of equals)",
    )


class Teacher(Section):
    """The network to learn from: fitted here, or imported."""

    model: str
    fit: Fit | None = None
    checkpoint: str | None = Field(None, description="as given, beside the recipe, or under the data root")
    weights: str | None = Field(
        None,
        exclude_if=_absent,
        description="what `fit` starts from: a file, or the name of published weights that are on this machine",
    )
    normalize: str = Field("dataset", description="dataset, or the statistics that the checkpoint was trained with")
    expect_top1: float | None = Field(None, ge=0, le=100, description="percent that an exact import must reproduce")
    trained_on: Literal["train", "train+val"] = "train"

    @model_validator(mode="after")
    def _one_origin(self) -> Teacher:
        if self.weights is not None and (self.fit is None or self.checkpoint is not None):
            raise ValueError("`weights` beside `fit`, which starts from them, and no `checkpoint`")
        if (self.fit is None) == (self.checkpoint is None):
            raise ValueError("either `fit` (train it here) or `checkpoint` (import it)")
        return self


def _unless_imported(student: dict[str, Any]) -> Fit | None:
    """The fit of a student that names none; an imported one has none."""
    return None if student.get("checkpoint") or student.get("onnx") else Fit()  # type: ignore[call-arg]


class Student(Section):
    """The network to ship: fitted here, or imported as the checkpoint of a network or as an ONNX file."""

    model: str | None = Field(None, exclude_if=_absent)
    checkpoint: str | None = Field(
        None, exclude_if=_absent, description="as given, beside the recipe, or under the data root"
    )
    onnx: str | None = Field(None, exclude_if=_absent, description="ONNX file; looked up like a checkpoint")
    scheme: str | None = Field(
        None,
        exclude_if=_absent,
        description="of an ONNX file that is quantized: the targets' scheme that it stands for",
    )
    normalize: str | None = Field(
        None,
        exclude_if=_absent,
        description="statistics of the network's input: dataset, a name, none (pixels / 255) or pixels (0 to 255)",
    )
    expect_top1: float | None = Field(
        None, ge=0, le=100, exclude_if=_absent, description="percent that an exact import must reproduce"
    )
    trained_on: Literal["train", "train+val"] | None = Field(None, exclude_if=_absent)
    seed: int | None = Field(
        None,
        ge=0,
        lt=2**31,
        exclude_if=_absent,
        description="of its initialisation, order, augmentation and method; the recipe's seed where left out",
    )
    fit: Fit | None = Field(default_factory=_unless_imported, exclude_if=_absent)

    @property
    def imported(self) -> bool:
        """Not fitted here."""
        return self.checkpoint is not None or self.onnx is not None

    @model_validator(mode="after")
    def _one_origin(self) -> Student:
        if (self.fit is not None) + (self.checkpoint is not None) + (self.onnx is not None) != 1:
            raise ValueError("one of `fit` (train it here), `checkpoint` and `onnx` (import it)")
        if self.model is None and self.onnx is None:
            raise ValueError("`model`: a network's name")
        if self.model is not None and self.onnx is not None:
            raise ValueError("no `model` beside `onnx`: the file is the network")
        if self.scheme is not None and self.onnx is None:
            raise ValueError("`scheme` beside an `onnx` file alone")
        if not self.imported and (self.expect_top1 is not None or self.trained_on is not None):
            raise ValueError("`expect_top1` and `trained_on` beside `checkpoint` or `onnx` alone")
        if self.imported and self.seed is not None:
            raise ValueError("`seed` beside `fit` alone")
        return self


class Distill(PluginSection):
    """The distillation method; `use: ce` needs no teacher."""

    cached_views: int | None = Field(
        None,
        ge=1,
        exclude_if=lambda value: value is None,
        description="fixed augmented views of each image; the teacher answers each once, before training",
    )


class Qat(Section):
    """Quantization-aware training: the student goes on learning, by the same method, rounded as its int8 file will be.

    Batch size, optimizer, weight decay, label smoothing and device are those of the student's fit (of an imported student: the
    defaults of `fit`); arithmetic is float32.
    """

    epochs: int = Field(10, ge=1)
    lr: float | None = Field(
        None, gt=0, exclude_if=_absent, description="a tenth of that of the student's fit where left out"
    )
    schedule: Literal["step", "cosine", "one-cycle"] = "cosine"
    scheme: Literal["u8s8", "s8-trt"] | None = Field(
        None, exclude_if=_absent, description="whose file it rounds like; that of the first such target where left out"
    )
    calibrate: str = Field("mse", description="where the ranges start: a calibrator of the quantizer ptq")
    images: int = Field(512, ge=1, description="training images that the ranges start from")
    learn_ranges: bool = Field(True, description="let the ranges of the activations learn, too")


class Quantize(PluginSection):
    """Post-training quantization."""

    use: str = "ptq"
    images: int = Field(512, ge=1, description="training images that the ranges are calibrated on")


class Bench(Section):
    """Where and how long to measure."""

    device: str = Field("cpu", description="see `edgekd devices`; a family; several with commas between them")
    profile: Literal["smoke", "quick", "mlperf"] = "quick"
    runtime: str | None = Field(
        None, exclude_if=_absent, description="left out: the first of the device's that the target runs in"
    )
    threads: int = Field(1, ge=1, le=256)


class GateStages(Section):
    """What single stages may lose, percentage points."""

    qat: float | None = Field(None, gt=0, le=100, exclude_if=_absent)
    graph: float | None = Field(None, gt=0, le=100, exclude_if=_absent)
    quantized: float | None = Field(None, gt=0, le=100, exclude_if=_absent)
    export: float | None = Field(
        None, gt=0, le=100, exclude_if=_absent, description="of targets that a tool chain makes"
    )
    bench: float | None = Field(None, gt=0, le=100, exclude_if=_absent)

    @property
    def named(self) -> dict[str, float]:
        """Stages with a budget of their own, in the order of the chain."""
        return self.model_dump(exclude_none=True)


class Gate(Section):
    """What is demanded of what is made: how much top-1 it may lose against the student (percentage points, and it must be shown
    to keep it), and how much of it an NPU must take.
    """

    max_drop_pp: float | None = Field(
        None, gt=0, le=100, exclude_if=_absent, description="of the whole chain; the sum of the stages where left out"
    )
    stages: GateStages | None = Field(
        None, exclude_if=_absent, description="what a stage may lose; what it does not spend the later ones may"
    )
    npu_coverage: float | None = Field(
        None,
        gt=0,
        le=1,
        exclude_if=_absent,
        description="least part of a network's operators on the NPU; 1.0: no fallback",
    )

    @property
    def budgeted(self) -> Gate | None:
        """Itself where it says what may be lost, else None."""
        return self if self.max_drop_pp is not None or self.named else None

    @property
    def total_pp(self) -> float:
        """What the whole chain may lose."""
        return sum(self.named.values()) if self.max_drop_pp is None else self.max_drop_pp

    @property
    def named(self) -> dict[str, float]:
        """Stages with a budget of their own, in the order of the chain."""
        return {} if self.stages is None else self.stages.named

    @model_validator(mode="after")
    def _a_budget(self) -> Gate:
        if self.max_drop_pp is None and not self.named and self.npu_coverage is None:
            raise ValueError(
                "`max_drop_pp`, for example {max_drop_pp: 1.0}, or `stages` with a budget each, or `npu_coverage`"
            )
        if sum(self.named.values()) > self.total_pp + 1e-9:
            raise ValueError(f"stages that sum to no more than max_drop_pp ({self.total_pp:g}); they sum to more")
        return self


class Recipe(Section):
    """The whole chain."""

    name: str = Field(pattern=NAME)
    seed: int = Field(0, ge=0, lt=2**31)
    data: Data
    teacher: Teacher | None = None
    student: Student
    distill: Distill | None = Field(None, exclude_if=_absent, description="left out where the student is imported")
    qat: Qat | None = Field(None, exclude_if=_absent, description="left out: post-training quantization alone")
    quantize: Quantize = Quantize()  # type: ignore[call-arg]
    export: list[str] = Field(["onnx", "onnx-int8"], min_length=1, max_length=MAX_TARGETS)
    bench: Bench = Bench()  # type: ignore[call-arg]
    gate: Gate | None = Field(None, exclude_if=_absent, description="left out: nothing is demanded of the accuracy")

    _source: yamlsource.Source | None = PrivateAttr(None)

    def written_at(self, path: yamlsource.KeyPath, where: str) -> None:
        """Errors about a key shall name this place: what the user typed."""
        if self._source is not None:
            self._source.places[path] = where

    @contextmanager
    def placed(self) -> Iterator[None]:
        """Errors about a key of this recipe, raised inside, say the file and line where the key was written."""
        try:
            yield
        except RecipeError as error:
            path: yamlsource.KeyPath = tuple(error.where.split(".")) if "/" not in error.where else ()
            if self._source is not None and path and path[0] in type(self).model_fields:
                error.where = f"{self._source.place(path)}: {error.where}"
            raise


_ORIGINS = ("student.checkpoint", "student.onnx")  # an override that imports the student instead of fitting it
_PLUGIN_SECTIONS: dict[str, type[PluginSection]] = {"data": Data, "distill": Distill, "quantize": Quantize}


def load(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file and apply `--set` overrides.

    Args:
        path: The YAML file.
        overrides: `a.b=c` texts, applied in order.

    Raises:
        RecipeError: With file and line, key path, what was found, what was expected and the nearest name.
    """
    source = yamlsource.read(path)
    _override_all(source, overrides)
    return build(source)


def build(source: yamlsource.Source) -> Recipe:
    """Turn parsed YAML into a Recipe; see `load` for errors."""
    try:
        recipe = Recipe.model_validate(source.data)
    except ValidationError as error:
        raise _translate(error, source, Recipe) from error
    recipe._source = source
    return recipe


def from_dict(data: Mapping[str, Any], name: str, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe kept in a run or a manifest, with overrides."""
    import json

    source = yamlsource.Source(name, json.loads(json.dumps(data)))
    _override_all(source, overrides)
    return build(source)


def _override_all(source: yamlsource.Source, overrides: Sequence[str]) -> None:
    """Overrides in the order given, but a change of plugin or origin first: what is set beside it belongs to the new one."""
    for text in sorted(overrides, key=lambda text: not text.partition("=")[0].strip().endswith((".use", *_ORIGINS))):
        _override(source, text)


def _override(source: yamlsource.Source, text: str) -> None:
    """One `a.b=c`. Another plugin (`distill.use=kd`) drops the arguments of the one before it, which it would not know."""
    where = f"--set {text}"
    key, equals, value = text.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts) or len(parts) > yamlsource.MAX_DEPTH:
        raise RecipeError(where, "is not of the form a.b=c", "for example --set distill.beta=100")
    target: Any = source.data
    for i, part in enumerate(parts[:-1]):
        target = target.setdefault(part, {})
        if not isinstance(target, dict):
            raise RecipeError(where, f"{'.'.join(parts[: i + 1])} is not a section", "section.key=value")
    new = yamlsource.scalar(value, where)
    section = _PLUGIN_SECTIONS.get(parts[0]) if parts[1:] == ["use"] else None
    if section is not None and target.get("use", _default_use(section, new)) != new:
        for name in [name for name in target if name not in section.model_fields]:
            del target[name]
    if key.strip() in _ORIGINS and new is not None:
        _forget_training(source.data, parts[1])
    target[parts[-1]] = new
    source.places[tuple(parts)] = where


def _default_use(section: type[PluginSection], required: Any) -> Any:
    """The plugin of a section that names none; `required` where it must."""
    field = section.model_fields["use"]
    return required if field.is_required() else field.default


def _forget_training(data: dict[str, Any], origin: str) -> None:
    """A student that an override imports is not fitted: what the recipe says of that is of no use to it.

    An ONNX file is another network: nothing that is said of the one before it holds, least of all its normalisation.
    """
    student = data["student"]
    for name in list(student) if origin == "onnx" else ("fit", "checkpoint", "onnx", "scheme", "seed"):
        student.pop(name, None)
    data.pop("distill", None)


def _translate(error: ValidationError, source: yamlsource.Source, model: type[BaseModel]) -> RecipeError:
    """pydantic's list of errors as one RecipeError that names places, keys and nearest names."""
    lines = []
    told = [item for item in error.errors() if item["type"] != "default_factory_not_called"]  # after another error
    for item in told[:5]:
        path = tuple(part for part in item["loc"] if not str(part).startswith(("function-", "literal[", "bool")))
        place = source.place(path)
        dotted = _short(".".join(str(part) for part in path)) or "recipe"
        if item["type"] == "extra_forbidden":
            known = _keys(model, path[:-1])
            lines.append(f"{place}: unknown key {dotted!r}; {nearest(str(path[-1]), known)}")
        elif item["type"] == "missing":
            lines.append(f"{place}: key {dotted!r} is missing")
        else:
            expected = item["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
            found = "" if isinstance(item["input"], dict) else f" found {_short(repr(item['input']))},"
            lines.append(f"{place}: {dotted}:{found} expected {expected}")
    more = len(told) - len(lines)
    if more > 0:
        lines.append(f"and {more} more")
    hint = "edgekd recipes show quickstart, or edgekd recipes schema"
    first, *rest = lines
    where, _, found = first.partition(": ")
    return RecipeError(where, "\n".join([found, *rest]), hint=hint)


def _short(text: str) -> str:
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."


def _keys(model: type[BaseModel], path: Sequence[str | int]) -> list[str]:
    for part in path:
        annotation = model.model_fields[str(part)].annotation if str(part) in model.model_fields else None
        options = getattr(annotation, "__args__", (annotation,))
        models = [option for option in options if isinstance(option, type) and issubclass(option, BaseModel)]
        if not models:
            return []
        model = models[0]
    return list(model.model_fields)
