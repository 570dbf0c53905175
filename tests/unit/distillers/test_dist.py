import torch

from edgekd.distillers.base import Outputs
from edgekd.distillers.dist import DIST, _unlike


def test_correlation_of_rows_knows_no_scale_and_no_shift() -> None:
    random = torch.Generator().manual_seed(0)
    rows, others = torch.rand((2, 5, 7), generator=random)
    assert _unlike(rows, 3 * rows + 2).abs() < 1e-6
    assert (_unlike(rows, -rows) - 2).abs() < 1e-6
    assert torch.allclose(_unlike(rows, others), _unlike(0.1 * rows - 4, others), atol=1e-5)


def test_intra_is_over_the_batch_and_inter_is_not(world) -> None:
    here = world()
    plain = here(DIST())
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    here.student, here.teacher = (Outputs(side.logits[order]) for side in (here.student, here.teacher))
    assert torch.allclose(here(DIST())["dist_intra"], plain["dist_intra"])  # the same batch in another order
    here = world()
    halves = [Outputs(here.student.logits[part]) for part in (slice(3), slice(3, 6))]
    guides = [Outputs(here.teacher.logits[part]) for part in (slice(3), slice(3, 6))]
    parts = [DIST()(s, t, here.target[:3], here.progress) for s, t in zip(halves, guides, strict=True)]
    means = {name: torch.stack([part[name] for part in parts]).mean() for name in ("dist_inter", "dist_intra")}
    assert torch.allclose(means["dist_inter"], plain["dist_inter"])
    assert not torch.allclose(means["dist_intra"], plain["dist_intra"], rtol=1e-3)


def test_one_image_has_no_correlation_within_classes_and_finite_gradients(world) -> None:
    here = world(batch=1)
    terms = here(DIST())
    torch.stack(list(terms.values())).sum().backward()
    assert torch.allclose(terms["dist_intra"], torch.tensor(2.0 * 16))
    assert torch.isfinite(here.student.logits.grad).all()
