from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from edgekd.augment import Drawn, apply, augment, draw
from edgekd.errors import RecipeError


def batch(n: int = 64, height: int = 8, width: int = 8, channels: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randint(0, 256, (n, height, width, channels), dtype=torch.uint8, generator=generator)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def views(image: npt.NDArray[np.uint8], pad: int, flip: bool) -> dict[bytes, tuple[int, int, bool]]:
    """Every crop of the zero-padded image, mirrored or not -> (row offset, column offset, mirrored): plain NumPy."""
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)))
    height, width, _ = image.shape
    found = {}
    for y in range(2 * pad + 1):
        for x in range(2 * pad + 1):
            crop = padded[y : y + height, x : x + width]
            found[crop.tobytes()] = (y, x, False)
            if flip:
                found[crop[:, ::-1].tobytes()] = (y, x, True)
    return found


@pytest.mark.parametrize("spec", [("crop2", "flip"), ("flip", "crop2"), ("crop2",), ("flip",), ()])
@pytest.mark.parametrize("shape", [(8, 8, 3), (5, 9, 1)])
def test_every_output_is_a_crop_of_the_padded_input(spec: tuple[str, ...], shape: tuple[int, int, int]) -> None:
    images = batch(400, *shape)
    out = augment(images, spec, seeded())
    assert out.dtype == torch.float32
    assert out.shape == (400, shape[2], *shape[:2])
    assert out.is_contiguous(memory_format=torch.channels_last)
    pixels = (out.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).numpy()
    pad = 2 if "crop2" in spec else 0
    seen = [
        views(image.numpy(), pad, "flip" in spec)[view.tobytes()] for image, view in zip(images, pixels, strict=True)
    ]
    assert {y for y, _, _ in seen} == {x for _, x, _ in seen} == set(range(2 * pad + 1))  # every offset is drawn
    if "flip" in spec:
        assert 140 < sum(mirrored for _, _, mirrored in seen) < 260  # 200 +- 6 standard deviations


def test_values_are_exact_and_the_input_is_untouched() -> None:
    images = batch()
    before = images.clone()
    assert torch.equal(augment(images, (), seeded()), images.permute(0, 3, 1, 2).float() / 255)
    augment(images, ("crop4", "flip"), seeded())
    assert torch.equal(images, before)


def test_only_the_given_generator_counts() -> None:
    images, spec = batch(), ("crop4", "flip")
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one = augment(images, spec, seeded(5))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(augment(images, spec, seeded(5)), one)
    assert not torch.equal(augment(images, spec, seeded(6)), one)
    generator = seeded(5)
    assert torch.equal(augment(images, spec, generator), one)
    assert not torch.equal(augment(images, spec, generator), one)  # it moves on


def test_a_sliced_batch_is_read_right() -> None:
    images = batch(16, 8, 16)[::2, :, ::2]
    assert torch.equal(
        augment(images, ("crop1", "flip"), seeded()), augment(images.contiguous(), ("crop1", "flip"), seeded())
    )


@pytest.mark.parametrize("spec", [("crop0",), ("mirror",), ("flip", "flip"), ("crop2", "crop4"), ("crop2", "rrc")])
def test_unknown_tokens(spec: tuple[str, ...]) -> None:
    with pytest.raises(RecipeError, match=r"data\.augment"):
        augment(batch(), spec, seeded())


@pytest.mark.parametrize("spec", [("crop2", "flip"), ("crop2",), ("flip",), ("rrc", "flip"), ()])
def test_some_of_what_was_drawn_makes_those_views_again(spec: tuple[str, ...]) -> None:
    images, index = batch(), torch.tensor([5, 0, 63, 5])
    whole, drawn = augment(images, spec, seeded()), draw(spec, 64, (8, 8), seeded())
    assert torch.equal(apply(images[index], drawn[index]), whole[index])
    assert torch.equal(apply(images[3:7], drawn[3:7]), whole[3:7])
    again = Drawn(spec, **drawn.tensors)  # as from a file
    assert torch.equal(apply(images, again), whole)
    assert len(drawn.tensors) == len(spec)
    assert all(len(values) == 64 for values in drawn.tensors.values())


def test_the_numbers_are_drawn_in_the_order_that_results_were_recorded_with() -> None:
    drawn, plain = draw(("crop4", "flip"), 16, (8, 8), seeded(3)), seeded(3)
    assert drawn.mirrored is not None and drawn.offsets is not None
    assert torch.equal(drawn.mirrored.int(), torch.randint(2, (16, 1), generator=plain, dtype=torch.int32)[:, 0])
    assert torch.equal(drawn.offsets.T, torch.randint(9, (2, 16, 1), generator=plain, dtype=torch.int32)[:, :, 0])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cpu_generator_gives_the_same_crops_on_cuda() -> None:
    images, spec = batch(), ("crop4", "flip")
    assert torch.equal(augment(images.cuda(), spec, seeded()).cpu(), augment(images, spec, seeded()))
