"""A Q/DQ file of batch 1 -> the context that Qualcomm's compiler makes of it for one chip.

Job: `model`, `out`: paths; `runner`: a runner.pyz; `options`: {soc_model, htp_arch}. Answer: `version`, `operators`: how many the
provider takes; `elsewhere`: those that it does not, as `Gemm node_linear`; then there is no context.

Source: the Python API of onnxruntime-qnn 2.7. Needs: onnxruntime-qnn.
"""

import sys
from pathlib import Path


def main(job: dict) -> dict:
    """Compile; nothing is left to the CPU."""
    sys.path.insert(0, job["runner"])
    from importlib import metadata

    import onnx

    from edgekd.runner.runtimes import qnn

    path, given = Path(job["model"]), {"backend_type": "htp", **job["options"]}
    Path(job["out"]).unlink(missing_ok=True)
    answer = {"version": metadata.version("onnxruntime-qnn"), "operators": 0, "elsewhere": []}
    answer["operators"] = len(onnx.load(str(path)).graph.node)
    entries = {"ep_0_context_enable": "1", "ep_0_context_file_path": job["out"], "ep_0_context_embed_mode": "1"}
    try:
        qnn.session(path, given, 1, qnn.ALONE, **entries)
    except qnn.ERRORS:
        answer["elsewhere"] = qnn.elsewhere(path, given)
        if not answer["elsewhere"]:
            raise
    return answer
