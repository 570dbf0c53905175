"""Engines that were built on this device, by what they were built from; the last good one is kept.

In `<cache>/tensorrt`: `<key>.engine` and `<key>.json` ({facts, sha256, accepted, serial}). The key is the SHA-256 of the facts:
model, TensorRT, GPU, compute capability, driver, build options. What differs in one of them is another key, so it is built
anew. An engine is written unaccepted; the golden images accept it, or it is deleted and the one before takes its place.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional

from edgekd.runner import atomic
from edgekd.runner.verify import sha256

FOLDER = "tensorrt"
KEPT = 2  # engines of one model: the present one and the one before
# An engine that differs in these alone runs here and computes the same; in any other, it does not, or elsewhere.
LOOSE = ("driver", "workspace_mib", "optimization_level")


class Shelf:
    """The place of one engine among those of its model.

    Args:
        cache: A folder that outlives the run.
        facts: What the engine depends on, as text; `model` among them.
    """

    def __init__(self, cache: Path, facts: Dict[str, str]) -> None:
        self.folder = cache / FOLDER
        self.facts = facts
        self.key = key_of(facts)

    def find(self) -> Optional[Path]:
        """The engine of these facts, whole; None: there is none, or its bytes have changed (which is said)."""
        record = self._record(self.key)
        if record is None:
            return None
        if not self._whole(self.key, record):
            say("the engine in {} is damaged: building again".format(self.folder))
            self._drop(self.key)
            return None
        return self._engine(self.key)

    def why(self) -> str:
        """What differs from the newest engine of this model; `first engine of this model` where there is none."""
        known = [item for item in self._records() if item["facts"].get("model") == self.facts["model"]]
        if not known:
            return "first engine of this model"
        last = max(known, key=lambda item: item["serial"])["facts"]
        names = [name for name in sorted({*last, *self.facts}) if last.get(name) != self.facts.get(name)]
        return "; ".join("{}: {} -> {}".format(n, last.get(n, "none"), self.facts.get(n, "none")) for n in names)

    def put(self, plan: Any) -> Path:
        """Write an engine, not accepted yet.

        Args:
            plan: Its bytes, or what has their buffer.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        content = memoryview(plan)
        atomic.write(self._engine(self.key), lambda file: file.write(content))
        serial = 1 + max([item["serial"] for item in self._records()], default=0)  # a board's clock may have gone back
        sha256 = hashlib.sha256(content).hexdigest()
        self._seal(self.key, {"facts": self.facts, "sha256": sha256, "accepted": False, "serial": serial})
        return self._engine(self.key)

    def judge(self, accepted: bool) -> Optional[Path]:
        """What the golden images said: `accept`, or `reject`, which is said; the engine to go back to, if any."""
        if accepted:
            self.accept()
            return None
        before = self.reject()
        say("the golden images reject the engine: deleted" + ("" if before is None else ", back to the one before"))
        return before

    def accept(self) -> None:
        """The golden images were answered: this is the present engine; the older ones but the last are deleted."""
        record = self._record(self.key)
        if record is not None and not record["accepted"]:
            self._seal(self.key, {**record, "accepted": True})
        mine = [item for item in self._records() if item["facts"].get("model") == self.facts["model"]]
        mine.sort(key=lambda item: (key_of(item["facts"]) == self.key, item["serial"]), reverse=True)
        for item in mine[KEPT:]:
            self._drop(key_of(item["facts"]))

    def reject(self) -> Optional[Path]:
        """Delete this engine; gives the newest accepted one that runs here and computes the same, which is the present one now."""
        self._drop(self.key)
        strict = {name: value for name, value in self.facts.items() if name not in LOOSE}
        for item in sorted(self._records(), key=lambda item: -int(item["serial"])):
            known = {name: value for name, value in item["facts"].items() if name not in LOOSE}
            if known == strict and item["accepted"] and self._whole(key_of(item["facts"]), item):
                self.facts, self.key = item["facts"], key_of(item["facts"])
                return self._engine(self.key)
        return None

    def _engine(self, key: str) -> Path:
        return self.folder / (key + ".engine")

    def _whole(self, key: str, record: Dict[str, Any]) -> bool:
        try:
            return bool(sha256(self._engine(key)) == record["sha256"])
        except OSError:
            return False

    def _record(self, key: str) -> Optional[Dict[str, Any]]:
        try:
            found = json.loads((self.folder / (key + ".json")).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None  # none, or cut off: then it is built again
        right = isinstance(found, dict) and set(found) == {"facts", "sha256", "accepted", "serial"}
        return found if right and key_of(found["facts"]) == key else None

    def _records(self) -> List[Dict[str, Any]]:
        found = (self._record(path.stem) for path in sorted(self.folder.glob("*.json")))
        return [record for record in found if record is not None]

    def _seal(self, key: str, record: Dict[str, Any]) -> None:
        atomic.text(self.folder / (key + ".json"), json.dumps(record, indent=1, sort_keys=True))

    def _drop(self, key: str) -> None:
        for path in (self.folder / (key + ".json"), self._engine(key)):
            if path.exists():
                path.unlink()


def facts_of(tool: str, model: Path, version: str, device: Dict[str, str], options: Dict[str, str]) -> Dict[str, str]:
    """What an engine depends on: which program makes it of which bytes, TensorRT, the device, the options of building."""
    return {"tool": tool, "model": sha256(model), "tensorrt": version, **device, **options}


def key_of(facts: Dict[str, str]) -> str:
    """SHA-256 of the facts, in hex."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def say(text: str) -> None:
    """One line of progress on stderr."""
    print("tensorrt: " + text, file=sys.stderr, flush=True)
