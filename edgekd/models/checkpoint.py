"""Weights from a file into a network: ours (.safetensors), or a published `torch.save`; no code in it is ever run."""

from __future__ import annotations

import pickle
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from edgekd.errors import IntegrityError, RecipeError
from edgekd.models import family

SHOWN_KEYS = 5  # of each kind of mismatch in an error: one screen

# what unpickling and unzipping of broken bytes raise (LookupError: KeyError, IndexError)
_BROKEN = (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, LookupError, AttributeError, TypeError)


def load_checkpoint(network: nn.Module, path: Path, model_name: str, *, where: str = "teacher.checkpoint") -> None:
    """Fill the network, made by `build(model_name)`, with the weights of a file; every key must fit.

    A file by `torch.save` is read with `weights_only=True`; its `state_dict` entry is taken if it has one, a `module.`
    prefix is dropped, and the published names of the family are mapped to ours.

    Raises:
        RecipeError: No such file, or the weights of another architecture or number of classes.
        IntegrityError: Not a checkpoint, damaged, holding anything but tensors and plain data, or not finite.
    """
    found = _ours(_read(path, where), model_name)
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
    return state


def _ours(state: dict[str, Tensor], model_name: str) -> dict[str, Tensor]:
    """The state under our names."""
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
