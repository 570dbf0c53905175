"""What one file loses against another on the same test images: counts, the point, its one-sided bounds, and words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekd import predictions, stats
from edgekd.artifact import Artifact, sha256_file
from edgekd.errors import CheckFailed, IntegrityError
from edgekd.predictions import FILE, Predictions

CONFIDENCE = 0.95  # of each bound, one-sided


@dataclass(frozen=True)
class Loss:
    """A paired comparison of two files' answers on test.

    Attributes:
        to: Step that it is measured against.
        n: Images that both answered.
        lost: Images that only the other got right.
        gained: Images that only this one got right.
        changed: Images that they answered differently, right or wrong.
    """

    to: str
    n: int
    lost: int
    gained: int
    changed: int

    @property
    def drop_pp(self) -> float:
        """Top-1 lost, percentage points; negative: gained."""
        return 100.0 * (self.lost - self.gained) / self.n

    @property
    def bound_pp(self) -> float:
        """The true drop is above this with probability <= 5 %."""
        return 100.0 * float(stats.drop_bound(self.lost, self.gained, self.n, CONFIDENCE))

    @property
    def low_pp(self) -> float:
        """The true drop is below this with probability <= 5 %."""
        return -100.0 * float(stats.drop_bound(self.gained, self.lost, self.n, CONFIDENCE))

    @property
    def agreement_percent(self) -> float:
        """Images with the same answer."""
        return 100.0 * (self.n - self.changed) / self.n

    @property
    def verdict(self) -> str:
        """What may be said of it."""
        if self.low_pp > 0:
            return f"loses {self.drop_pp:.2f} pp"
        if self.bound_pp < 0:
            return f"better by {-self.drop_pp:.2f} pp"
        if self.changed == 0:
            return f"the same answers; a loss of at most {self.bound_pp:.3f} pp"
        if self.drop_pp > 0:
            return f"within noise; a loss of at most {self.bound_pp:.3f} pp"
        return f"no loss seen; at most {self.bound_pp:.3f} pp"

    def figures(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        return {
            "to": self.to,
            "n": self.n,
            "lost": self.lost,
            "gained": self.gained,
            "changed": self.changed,
            "drop_pp": self.drop_pp,
            "low_pp": self.low_pp,
            "bound_pp": self.bound_pp,
            "agreement_percent": self.agreement_percent,
            "verdict": self.verdict,
        }


def answers(artifact: Artifact) -> Predictions | None:
    """What an artifact answered on test, rows ascending; None where it was not evaluated there, or its measurement is void.

    Raises:
        IntegrityError: The file is not the one that was sealed: a verdict must not rest on it.
    """
    path = artifact.path / FILE
    if not path.exists() or artifact.metrics.get("verdict") == "void":
        return None
    if artifact.manifest["files"].get(FILE, {}).get("sha256") != sha256_file(path):
        hint = "edgekd artifacts gc --yes removes damaged artifacts; the same run then makes them anew"
        raise IntegrityError(
            artifact.id, f"{FILE} has other bytes than were sealed", "the bytes that were sealed", hint
        )
    test = predictions.load(artifact.path).of("test")
    return test.at(np.argsort(test.row, kind="stable")) if len(test.row) else None


def comparable(before: Predictions, after: Predictions) -> bool:
    """Whether every image that the later file answered is one, with the same label, that the earlier one answered."""
    _, mine, theirs = np.intersect1d(before.row, after.row, return_indices=True)
    return len(theirs) == len(after.row) and np.array_equal(before.label[mine], after.label[theirs])


def loss(to: str, before: Predictions, after: Predictions) -> Loss:
    """Compare two files on the images of the later one, which may be fewer (a slow board).

    Args:
        to: Name of the earlier one.
        before: Of `answers`.
        after: Likewise.

    Raises:
        CheckFailed: The later one answered images that the earlier one did not: nothing can be said.
    """
    if not comparable(before, after):
        raise CheckFailed(to, "answered other test images", "the same images and labels", "run the whole chain again")
    mine = np.isin(before.row, after.row)
    was, is_right = before.right[mine], after.right
    lost, gained = int(np.sum(was & ~is_right)), int(np.sum(~was & is_right))
    return Loss(to, len(after.row), lost, gained, int(np.sum(before.answer[mine] != after.answer)))
