"""Every method on the embedded digits beside labels alone: none may end more than one point below.

    python -m tests.methods.on_digits [--seeds 3] [--epochs 30] [--workspace FOLDER] [--threads 1]

About a quarter of an hour on two cores. Methods whose defaults are made for 50,000 images of 100 classes and 240 epochs are
given what suits a few hundred steps; what they are given stands in METHODS.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from edgekd import registry

ALLOWED_PP = 1.0
METHODS = {  # as typed behind --methods; the others run with their defaults
    "crd": "crd:nce_k=512",
    "dkd": "dkd:warmup_epochs=3",
    "reviewkd": "reviewkd:warmup=3",
    "rtk": "rtk:beta=50",
    "semckd": "semckd:beta=50",
    "simkd": "simkd:weight=30",
    "sum": "sum:of=[{use: kd}, {use: at}]",
    "vid": "vid:beta=0.3",
}
NOT_RUN = ("ce", "kd")  # in every comparison anyway


def main() -> int:
    """Run the comparison; 1 if a method falls short."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", default="2")
    parser.add_argument("--epochs", default="30")
    parser.add_argument("--workspace", default="workspace")
    parser.add_argument("--threads", default="1")
    given = parser.parse_args()
    names = [METHODS.get(name, name) for name in registry.plugins("distillers") if name not in NOT_RUN]
    command = ["compare", "--recipe", "quickstart", "--methods", ",".join(names), "--json"]
    for option in ("seeds", "epochs", "workspace", "threads"):
        command += [f"--{option}", getattr(given, option)]
    done = subprocess.run([sys.executable, "-m", "edgekd", *command], stdout=subprocess.PIPE, check=True)
    facts = json.loads(done.stdout)
    short = [row["method"] for row in facts["methods"] if row["asked"] and _below(row, facts["plain"]) > ALLOWED_PP]
    for row in facts["methods"]:
        print(f"{row['method']:32} {row['mean_percent']:6.2f} %  n = {row['n']}")
    print(f"more than {ALLOWED_PP:g} pp below {facts['plain']}: {', '.join(short) or 'none'}")
    return 1 if short else 0


def _below(row: Mapping[str, Any], plain: str) -> float:
    """Points that a method lies below labels alone, paired over the seeds."""
    return -next(float(found["mean_pp"]) for found in row["differences"] if found["to"] == plain)


if __name__ == "__main__":
    sys.exit(main())
