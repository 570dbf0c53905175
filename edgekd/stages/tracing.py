"""A torch network traced to ONNX: one file, one operator set, free batch, nothing on stdout."""

from __future__ import annotations

import io
import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import torch
from onnx import ModelProto
from torch import nn

from edgekd import onnxfile
from edgekd.errors import StageFailed

EXAMPLE_BATCH = 2  # torch.export may take a batch of 1 for a constant


def trace(network: nn.Module, channels: int, size: tuple[int, int], opset: int) -> ModelProto:
    """A network as ONNX, `input` [batch, C, H, W] -> `logits` [batch, classes], with the exporter's own notes still in it.

    Args:
        network: On the CPU, in eval mode, float32.
        channels: C.
        size: (H, W) in pixels.
        opset: Operator set, >= 18.

    Raises:
        StageFailed: torch cannot export it, or left another operator set than asked (it does so without failing).
    """
    example = torch.zeros(EXAMPLE_BATCH, channels, *size)
    with tempfile.TemporaryDirectory() as folder, _silent():
        path = Path(folder) / "traced.onnx"
        try:
            torch.onnx.export(
                network,
                (example,),
                path,
                dynamo=True,
                opset_version=opset,
                external_data=False,  # its default splits even a small network into two files
                verbose=False,
                input_names=[onnxfile.INPUT],
                output_names=[onnxfile.OUTPUT],
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            )
        except torch.onnx.OnnxExporterError as error:
            raise StageFailed("graph", f"torch cannot export the network: {error}") from error
        model = onnxfile.load(path)
    found = [entry.version for entry in model.opset_import if entry.domain == ""]
    if found != [opset]:
        raise StageFailed("graph", f"torch left operator set {found}", f"operator set {opset}")
    return model


@contextmanager
def _silent() -> Iterator[None]:
    """Keep the exporter's progress lines and its advice to developers out of stdout and of our log."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
