"""What a run that was cut short leaves in its folder, so that the next one goes on from there.

`partial.json`: {identity, result so far}, written once the latency part is done; `answers-<first row>.npy`: logits float32 [n, classes]
of the rows from there on. Each is written whole or not at all; both go when result.json is there. Where it is asked for, what is kept
is told on stderr as it grows, `{"kept": {"answered", "images"}}`: whoever loses this process knows what it lost.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Optional

import numpy as np

from edgekd.runner import atomic

if TYPE_CHECKING:
    import numpy.typing as npt

FILE, RESULT, PIECES = "partial.json", "result.json", "answers-*.npy"


class Partial:
    """The state of one folder.

    Args:
        out: The folder; made where it is not.
        identity: What must be the same for a figure of an earlier run to belong to this one.
        tells: `say` says it.

    Attributes:
        result: The latency part of an earlier run of the same; None: there is none.
        finished: The whole result of an earlier run of the same that was not void.
        note: What was found and is not of the same; empty: nothing.
    """

    def __init__(self, out: Path, identity: Dict[str, Any], tells: bool = False) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self._out, self._identity, self._tells = out, identity, tells
        self.note = ""
        self.result = self._same(_json(out / FILE))
        done = self._same(_json(out / RESULT))
        self.finished = done if done is not None and done.get("verdict") != "void" else None
        if self.result is None and self.finished is None:
            self.clear()
            (out / RESULT).unlink(missing_ok=True)

    def keep(self, result: Dict[str, Any]) -> None:
        """The latency part is done."""
        atomic.text(self._out / FILE, json.dumps(result, allow_nan=False))

    def keep_answers(self, first: int, logits: npt.NDArray[np.float32]) -> None:
        """Logits of the rows from `first` on."""
        atomic.array(self._out / PIECES.replace("*", str(first)), logits)

    def say(self, answered: int, images: int) -> None:
        """Tell that the latency part is kept, and the answers to so many of the test images."""
        if self._tells:
            print(json.dumps({"kept": {"answered": answered, "images": images}}), file=sys.stderr, flush=True)

    def answers(self, classes: int) -> npt.NDArray[np.float32]:
        """Logits [n, classes] of the first n rows that earlier runs answered; n may be 0."""
        found = [np.zeros((0, classes), np.float32)]
        count = 0
        while True:
            try:
                piece = np.load(str(self._out / PIECES.replace("*", str(count))), allow_pickle=False)
            except (OSError, ValueError, EOFError):
                return np.concatenate(found)
            if piece.dtype != np.float32 or piece.ndim != 2 or piece.shape[1] != classes or len(piece) == 0:
                return np.concatenate(found)
            found.append(piece)
            count += len(piece)

    def finish(self, result: Dict[str, Any]) -> None:
        """Write result.json and remove the pieces that it was made of."""
        text = json.dumps(result, indent=1, sort_keys=True, allow_nan=False)
        atomic.text(self._out / RESULT, text + "\n")
        self.clear()

    def clear(self) -> None:
        """Remove what an unfinished run left."""
        for path in [self._out / FILE, *self._out.glob(PIECES), *self._out.glob("*" + atomic.PART)]:
            path.unlink(missing_ok=True)

    def _same(self, found: Optional[Dict[str, Any]]) -> Optional[Dict[str, Any]]:
        if found is None:
            return None
        changed = sorted(name for name, value in self._identity.items() if found.get("identity", {}).get(name) != value)
        if changed:
            self.note = "{} changed since the run that {} holds: measured anew".format(", ".join(changed), self._out)
        return None if changed else found


def _json(path: Path) -> Optional[Dict[str, Any]]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
