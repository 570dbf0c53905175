"""Weights from a file into a network: ours (.safetensors), or a published `torch.save`; no code in it is ever run."""

from __future__ import annotations

import pickle
import struct
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from edgekd.errors import IntegrityError, RecipeError
from edgekd.models import catalogue, family

SHOWN_KEYS = 5  # of each kind of mismatch in an error: one screen

# what unpickling and unzipping of broken bytes are seen to raise (LookupError: KeyError, IndexError)
_BROKEN = (
    *(pickle.UnpicklingError, struct.error, RuntimeError, EOFError, OSError, ValueError, LookupError, AttributeError),
    *(TypeError, AssertionError, OverflowError, MemoryError),
)


def load_checkpoint(network: nn.Module, path: Path, model_name: str, *, where: str = "teacher.checkpoint") -> None:
    """Fill the network, made by `build(model_name)`, with the weights of a file; every key must fit.

    A file by `torch.save` is read with `weights_only=True`; its `state_dict` entry is taken if it has one, a `module.`
    prefix is dropped, and the published names of the family are mapped to ours.

    Raises:
        RecipeError: No such file, or the weights of another architecture or number of classes.
        IntegrityError: Not a checkpoint, damaged, holding anything but tensors and plain data, or not finite.
    """
    _fill(network, _ours(_read(path, where), model_name), path, model_name, where)


def load_weights(network: nn.Module, path: Path, model_name: str, *, where: str = "teacher.weights") -> bool:
    """Fill the network with the weights of a file to go on from; see `load_checkpoint` for what is read.

    Every key must fit, but those of the classifier: where the file's is of other classes, or it has none, the network's
    own stays as it is.

    Returns:
        Whether the classifier is the file's.

    Raises:
        RecipeError: No such file, or the weights of another architecture.
        IntegrityError: Not a checkpoint, damaged, holding anything but tensors and plain data, or not finite.
    """
    found = _ours(_read(path, where), model_name)
    expected = network.state_dict()
    head = next(name for name, module in network.named_modules() if module is network.classifier)
    own = {key: value for key, value in expected.items() if key.startswith(f"{head}.")}
    whole = all(key in found and found[key].shape == value.shape for key, value in own.items())
    if not whole:
        found = {key: value for key, value in found.items() if not key.startswith(f"{head}.")} | own
    _fill(network, found, path, model_name, where)
    return whole


def _fill(network: nn.Module, found: dict[str, Tensor], path: Path, model_name: str, where: str) -> None:
    expected = network.state_dict()
    # torch wrote no batch counter before 1.0, and nothing here reads it
    missing = [key for key in expected if key not in found and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in found if key not in expected]
    shapes = [
        f"{key} {_shape(found[key])} for {_shape(expected[key])}"
        for key in found
        if key in expected and found[key].shape != expected[key].shape
    ]
    if missing or unexpected or shapes:
        lines = {"missing": missing, "unexpected": unexpected, "other shape": shapes}
        told = "; ".join(f"{kind} {_some(keys)}" for kind, keys in lines.items() if keys)
        raise RecipeError(where, f"{path.name} does not fit {model_name}: {told}", f"the weights of {model_name}")
    for key, value in found.items():
        if not torch.isfinite(value).all():
            raise IntegrityError(where, f"{path.name}: {key} holds values that are not finite", "finite weights")
    network.load_state_dict(found, strict=False)


def _read(path: Path, where: str) -> dict[str, Tensor]:
    if not path.is_file():
        raise RecipeError(where, f"no file {path}", "a .safetensors file or a checkpoint of torch.save")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RecipeError(where, f"{path.name} cannot be read: {error.strerror}", "a readable file") from None
    try:
        state: Any = (
            load(content)
            if path.suffix == ".safetensors"
            else torch.load(BytesIO(content), map_location="cpu", weights_only=True)
        )
    except (SafetensorError, *_BROKEN) as error:
        raise IntegrityError(
            where,
            f"{path.name} is damaged, no checkpoint, or holds more than tensors ({_first_line(error)})",
            "tensors and plain data only; nothing in the file was run",
            "save its state_dict as .safetensors",
        ) from None
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise IntegrityError(where, f"{path.name} holds no state_dict", "a mapping of names to tensors")
    for key, value in state.items():
        if value.layout != torch.strided or value.is_meta or value.is_quantized or value.is_complex():
            raise IntegrityError(where, f"{path.name}: {key} is no plain array of real numbers", "dense tensors")
    return state


def _ours(state: dict[str, Tensor], model_name: str) -> dict[str, Tensor]:
    """The state under our names."""
    if catalogue.is_foreign(model_name):
        from edgekd.models.foreign import ours

        return ours(state)
    found = {}
    for key, value in state.items():
        name = str(key).removeprefix("module.")
        for foreign, own in family(model_name).FOREIGN.items():
            if name.startswith(foreign):
                name = own + name.removeprefix(foreign)
        found[name] = value
    return found


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _some(keys: list[str]) -> str:
    rest = len(keys) - SHOWN_KEYS
    return ", ".join(keys[:SHOWN_KEYS]) + (f" and {rest} more" if rest > 0 else "")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
