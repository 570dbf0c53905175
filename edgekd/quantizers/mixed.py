"""Mixed precision: the layers that cost most stay in float until what is lost is within a budget.

Source: Wu, Judd, Zhang, Isaev, Micikevicius, Integer Quantization for Deep Learning Inference, 2020, section 5.1 (partial
quantization). Ours differs: the budget is on the bound of the drop, on held-out images.
Needs: what its member needs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from annotated_types import Gt

from edgekd import onnxfile, registry
from edgekd.analysis.sensitivity import ranked
from edgekd.errors import CheckFailed, RecipeError
from edgekd.quantizers import judged, layers
from edgekd.quantizers.base import Judge, Quantizer, Range
from edgekd.quantizers.draft import Draft

NAME = "mixed"
RANKED = 512  # images that the layers are put in order on: SQNR needs few, and there are as many graphs as layers


class Mixed(Quantizer):
    """Another quantizer's int8, with as few layers in float as keep the drop of top-1 within a budget.

    Layers are put in order by the noise that each alone brings. The drop is measured on validation, paired with the float
    network; its one-sided 95 % upper bound is what must be within the budget. Parity must hold, too, by the bound of the
    agreement: what just passes there would fail on test every second time.

    Args:
        of: The one quantizer that is wrapped, `{use: ptq, <its arguments>}`.
        max_drop_pp: Points of top-1 that may be lost, > 0. 3 / images is the finest that can be told: 0.06 of 5,000.
    """

    VERSION = 2  # 2: parity must hold by the bound of the agreement, not on these images alone
    schemes = ("u8s8", "s8-trt")
    wraps = "of"

    def __init__(
        self,
        of: list[dict[str, Any]] = [{"use": "ptq"}],  # noqa: B006  # read from the source as a literal, and never changed
        max_drop_pp: Annotated[float, Gt(0)] = 0.5,
    ) -> None:
        super().__init__()
        members = registry.members("quantizers", NAME, {"of": of})
        if len(members) != 1:
            raise RecipeError("quantize.of", f"{len(members)} quantizers", "one", "quantize.of=[{use: ptq}]")
        self.member: Quantizer = registry.construct("quantizers", *members[0])
        self.max_drop_pp = max_drop_pp

    def check_judge(self, images: int) -> None:
        """Refuse a budget that so many images cannot resolve."""
        self.member.check_judge(images)
        finest = judged.finest_pp(images)
        if finest > self.max_drop_pp:
            raise RecipeError(
                "quantize.max_drop_pp",
                f"{self.max_drop_pp:g} points, and a file that loses nothing on {images} images may lose {finest:.3g}",
                f"at least {finest:.3g}",
                f"data.val={int(np.ceil(images * finest / self.max_drop_pp))} or more, or a larger budget",
            )

    @property
    def judged(self) -> bool:
        """Always."""
        return True

    def quantize(
        self,
        graph: Path,
        out: Path,
        *,
        calibration: Iterable[npt.NDArray[np.float32]],
        scheme: str,
        judge: Judge | None = None,
        ranges: Mapping[str, Range] | None = None,
    ) -> Path:
        """Write the graph with the fewest float layers, in the order of their noise, that keeps the budget."""
        self.require(scheme)
        if ranges is not None:
            raise RecipeError("quantize.use", "mixed has no use for the ranges of a network trained with them", "ptq")
        if judge is None:
            raise RecipeError("quantize.use", "mixed has no image to decide on", "data.val > 0")
        self.check_judge(len(judge.rows))
        draft = self.member.draft(graph, calibration, scheme, judge)
        kept = self._kept(draft, judge)
        return onnxfile.save(draft.written(kept), out)

    def draft(
        self,
        graph: Path,
        calibration: Iterable[npt.NDArray[np.float32]],
        scheme: str,
        judge: Judge | None = None,
        ranges: Mapping[str, Range] | None = None,
    ) -> Draft:
        """The member's: all layers in int8."""
        return self.member.draft(graph, calibration, scheme, judge, ranges)

    def _kept(self, draft: Draft, judge: Judge) -> list[str]:
        reference = judged.logits(draft.model, judge)
        few = layers.fewer(judge, RANKED)
        order: list[str] = []
        tried = []
        for count in range(max(1, len(draft.layers))):  # one int8 layer is left at the least
            if count == 1:
                noise = layers.losses(draft, few, judged.logits(draft.model, few))
                order = [loss.layer for loss in ranked(noise)]
            kept = order[:count]
            score = judged.score(reference, judged.logits(draft.written(kept), judge), judge)
            tried.append({"float_layers": count, **score.figures()})
            if score.drop_bound_pp <= self.max_drop_pp and score.parity:
                self.decided = {
                    "float_layers": len(kept),
                    "float_layer_names": ", ".join(kept),
                    "int8_layers": len(draft.layers) - len(kept),
                    "tried": tried,
                    **({"member": self.member.decided} if self.member.decided else {}),
                }
                return kept
        first, last = tried[0], tried[-1]
        raise CheckFailed(
            f"quantized/{draft.scheme}: mixed",
            f"with {last['float_layers']} of {len(draft.layers)} layers in float {judged.words(last)}; with none {judged.words(first)} "
            f"({len(judge.rows)} images of {judge.role})",
            f"a drop of at most {self.max_drop_pp:g}, and parity",
            "a larger quantize.max_drop_pp, or another quantize.of",
        )
