"""A FAKE `trtexec`, written as a program: it refuses options that its own help does not list, and proves nothing about TensorRT.

Its "engine" is the name of the weights file (a linear classifier's) and what to add to the bias.
"""

import sys

HELPS = {
    "8.6": ("v8601", """
=== Model Options ===
  --onnx=<file>
=== Build Options ===
  --minShapes=spec  --optShapes=spec  --maxShapes=spec
  --memPoolSize=poolspec
  --profilingVerbosity=mode
  --noTF32
  --fp16
  --int8
  --best
  --allowGPUFallback
  --saveEngine=<file>
  --loadEngine=<file>
  --timingCacheFile=<file>
  --builderOptimizationLevel
  --buildOnly
=== Inference Options ===
  --shapes=spec
  --loadInputs=spec
  --iterations=N  --warmUp=N  --duration=N
  --exposeDMA
  --useCudaGraph
=== Reporting Options ===
  --exportTimes=<file>  --exportOutput=<file>  --exportLayerInfo=<file>
  --useDLACore=N
  --help, -h"""),
    "10": ("v101303", """
=== Model Options ===
  --onnx=<file>
=== Build Options ===
  --minShapes=spec  --optShapes=spec  --maxShapes=spec
  --memPoolSize=poolspec
  --profilingVerbosity=mode
  --noTF32
  --fp16
  --bf16
  --int8
  --stronglyTyped
  --allowGPUFallback
  --saveEngine=<file>
  --loadEngine=<file>
  --timingCacheFile=<file>
  --builderOptimizationLevel
=== Inference Options ===
  --shapes=spec
  --loadInputs=spec
  --iterations=N  --warmUp=N  --duration=N
  --exposeDMA
  --useCudaGraph
  --skipInference
=== Reporting Options ===
  --exportTimes=<file>  --exportOutput=<file>  --exportLayerInfo=<file>
  --useDLACore=N
  --help, -h"""),
    "11": ("v110400", """
  --onnx=<file>  --saveEngine=<file>  --loadEngine=<file>
  --minShapes=spec  --optShapes=spec  --maxShapes=spec  --shapes=spec
  --loadInputs=spec  --iterations=N  --warmUp=N  --duration=N  --skipInference
  --exportTimes=<file>  --exportOutput=<file>"""),
}  # fmt: skip

PROGRAM = """#!{python} -S
# FAKE trtexec of edgekd's tests
import json, re, sys
HELP = {help!r}
WEIGHTS = {weights!r}
given = dict((a.lstrip("-").split("=", 1) + [""])[:2] for a in sys.argv[1:])
with open({log!r}, "a") as file:
    file.write(json.dumps(given) + "\\n")
print("&&&& RUNNING TensorRT.trtexec [TensorRT {banner}] # trtexec")
if "help" in given:
    print(HELP)
    sys.exit(0)
state = json.load(open({state!r}))

def fail(text):
    print("[11/22/2026-10:00:00] [E] " + text)
    sys.exit(1)

for name in given:
    if not re.search("--" + name + r"(?!\\w)", HELP):
        fail("Unknown option: --" + name)
if state.get("fail"):
    fail(state["fail"])
if "saveEngine" in given:
    with open(given["saveEngine"], "w") as file:
        json.dump(dict(weights=WEIGHTS, spoil=state.get("spoil", 0.0)), file)
    sys.exit(0)
engine = json.load(open(given["loadEngine"]))
if "exportLayerInfo" in given:
    json.dump(dict(Layers=state["layers"]), open(given["exportLayerInfo"], "w"))
    sys.exit(0)
import array
layer = json.load(open(engine["weights"]))
n = int(re.match("input:(\\d+)x1x8x8$", given["shapes"]).group(1))
images = array.array("f", open(given["loadInputs"].split(":", 1)[1], "rb").read())
assert len(images) == n * 64
if "exportOutput" in given:
    logits = []
    for image in (images[i * 64 : i * 64 + 64] for i in range(n)):
        for k in range(10):
            logits.append(sum(v * w[k] for v, w in zip(image, layer["w"])) + layer["b"][k] + engine["spoil"] * k)
    values = ", ".join("%.6g" % value for value in logits)
    text = '[\\n  {{ "name" : "logits"\\n  , "dimensions" : "%dx10"\\n  , "values" : [ %s ]\\n  }}\\n]\\n' % (n, values)
    open(given["exportOutput"], "w").write(state.get("answer", text))
if "exportTimes" in given:
    query = dict(startH2dMs=1.0, h2dMs=0.01, computeMs=0.25, d2hMs=0.005, latencyMs=0.265)
    if state.get("no_graph"):
        print("[W] The CUDA graph capture on the stream has failed.")
    text = json.dumps([query] * int(given["iterations"]))
    open(given["exportTimes"], "w").write(state.get("times", text))
"""


def write(path, style, weights, log, state):
    """Put the program at a path; `style` names its help."""
    banner, text = HELPS[style]
    program = PROGRAM.format(
        python=sys.executable, help=text, banner=banner, weights=str(weights), log=str(log), state=str(state)
    )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(program)
    path.chmod(0o755)
