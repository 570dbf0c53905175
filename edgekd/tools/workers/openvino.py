"""An ONNX file -> OpenVINO's IR, weights as they are.

Job: `model`, `out` (model.xml): paths. Answer: `version`.

Source: the Python API of OpenVINO 2026.4. Needs: openvino.
"""

import sys

sys.modules.setdefault("openvino_telemetry", None)  # `import openvino` reports itself to a counting service

import openvino  # noqa: E402


def main(job: dict) -> dict:
    """Read and write; left to itself the writer would round float32 weights to float16."""
    openvino.save_model(openvino.Core().read_model(job["model"]), job["out"], compress_to_fp16=False)
    return {"version": openvino.__version__.partition("-")[0]}
