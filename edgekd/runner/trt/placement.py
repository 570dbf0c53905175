"""Where the layers of an engine run: those that are not on the DLA that was asked for, by the engine inspector's words.

Source: TensorRT documentation, Engine Inspector (NVIDIA): with detailed verbosity each layer is JSON with Name and LayerType; what
is fused for a DLA is one layer of type DLA. Written, not run on hardware.
"""

from __future__ import annotations

import json
from typing import Any, Dict, List

from edgekd.runner.failure import VOID, RunnerError
from edgekd.runner.trt.cache import say
from edgekd.runner.trt.options import Options

DLA = "DLA"
BORDER = (
    "Reformat",
    "NoOp",
    "ShapeHostToDevice",
)  # copies at the edge of the DLA, which TensorRT itself puts on the GPU
SHOWN = 8  # layers in one message


def layers(trt: Any, engine: Any) -> List[Any]:
    """What the inspector says of each layer: a mapping, or its name alone."""
    inspector = engine.create_engine_inspector()
    form = trt.LayerInformationFormat.JSON
    return [json.loads(inspector.get_layer_information(i, form)) for i in range(engine.num_layers)]


def check(found: List[Any], options: Options) -> Dict[str, str]:
    """Settings that say where the layers run.

    Raises:
        RunnerError: 4: a layer is not on the DLA, and `gpu_fallback` was not asked for, or nobody can tell.
    """
    if options.dla_core is None:
        return {"device": "GPU"}
    where = "options: dla_core"
    if not found or not all(isinstance(layer, dict) and "LayerType" in layer for layer in found):
        raise RunnerError(
            VOID, where, "the engine does not say where its layers run", "a detailed engine", "build again"
        )
    elsewhere = [str(layer["Name"]) for layer in found if layer["LayerType"] not in (DLA, *BORDER)]
    on_dla = sum(layer["LayerType"] == DLA for layer in found)
    named = ", ".join(elsewhere[:SHOWN]) + (" and {} more".format(len(elsewhere) - SHOWN) if elsewhere[SHOWN:] else "")
    if not on_dla or (elsewhere and not options.gpu_fallback):
        text = "no layer is on the DLA" if not on_dla else "{} layers run on the GPU: {}".format(len(elsewhere), named)
        raise RunnerError(
            VOID, where, text, "all on DLA core {}".format(options.dla_core), "options: {gpu_fallback: true}"
        )
    if elsewhere:
        say("{} layers run on the GPU: {}".format(len(elsewhere), named))
    return {"device": "DLA core {}".format(options.dla_core), "layers_on_gpu": named or "none"}
