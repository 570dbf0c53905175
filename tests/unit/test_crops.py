"""Random resized crops against the algorithm written out for one image, torchvision's draws and Pillow's resizing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image
from tolerances import BYTE_ROUNDING
from torchvision.transforms import RandomResizedCrop

from edgekd.augment import Drawn, apply, augment, draw
from edgekd.crops import NUMBERS, TRIES, Uncut, boxes, cut, draw_crops
from edgekd.data.base import Photos
from edgekd.fit.batches import TrainingData, batches

SIDES = ((30, 40), (40, 30), (16, 16), (50, 9), (9, 50), (1, 1), (3, 2))  # (height, width)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def photos(sides: tuple[tuple[int, int], ...] = SIDES, channels: int = 3) -> Photos:
    random = np.random.default_rng(0)
    arrays = [random.integers(0, 256, (height, width, channels), dtype=np.uint8) for height, width in sides]
    firsts = np.cumsum([0, *(array.size for array in arrays[:-1])])
    index = np.array([(first, *array.shape[:2]) for first, array in zip(firsts, arrays, strict=True)], dtype=np.int64)
    return Photos(np.concatenate([array.ravel() for array in arrays]), index, channels)


def box(numbers: list[float], height: int, width: int) -> tuple[int, int, int, int]:
    """One image, one number after the other."""
    for i in range(TRIES):
        area = height * width * (0.08 + 0.92 * numbers[2 * i])
        aspect = math.exp(math.log(3 / 4) + (math.log(4 / 3) - math.log(3 / 4)) * numbers[2 * i + 1])
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(numbers[-2] * (height - h + 1)), int(numbers[-1] * (width - w + 1)), h, w
    w, h = width, height
    if width / height < 3 / 4:
        h = max(round(width / (3 / 4)), 1)
    elif width / height > 4 / 3:
        w = max(round(height * (4 / 3)), 1)
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize("sides", SIDES)
def test_boxes_are_those_of_the_algorithm_one_by_one(sides: tuple[int, int]) -> None:
    numbers = draw_crops(300, seeded())
    found = boxes(numbers, torch.tensor(sides).expand(300, 2)).tolist()
    assert [tuple(row) for row in found] == [box(row, *sides) for row in numbers.tolist()]
    for top, left, height, width in found:
        assert 0 <= top <= sides[0] - height
        assert 0 <= left <= sides[1] - width
        assert min(height, width) >= 1


def test_a_long_strip_gets_the_largest_centred_crop() -> None:
    found = boxes(draw_crops(50, seeded()), torch.tensor([9, 500]).expand(50, 2))
    assert (found == torch.tensor([0, 244, 9, 12])).all()


def test_areas_and_aspects_are_spread_as_torchvisions() -> None:
    """Means of 4,000 draws of either, within 5 standard errors of their difference."""
    n, (height, width) = 4000, (120, 160)
    ours = boxes(draw_crops(n, seeded()), torch.tensor([height, width]).expand(n, 2)).double()
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    drawn = [RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(n)]
    theirs = torch.tensor(drawn, dtype=torch.float64)
    for figure in (
        lambda b: b[:, 2] * b[:, 3],
        lambda b: (b[:, 3] / b[:, 2]).log(),
        lambda b: b[:, 0],
        lambda b: b[:, 1],
    ):
        a, b = figure(ours), figure(theirs)
        assert abs(float(a.mean() - b.mean())) < 5 * math.sqrt(float(a.var() + b.var()) / n)
        assert float(a.std()) == pytest.approx(float(b.std()), rel=0.1)


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_are_pillows(channels: int) -> None:
    store, numbers = photos(channels=channels), draw_crops(len(SIDES), seeded(3))
    out = cut(Uncut(store, (12, 14)), numbers).numpy()
    assert out.shape == (len(SIDES), 12, 14, channels)
    found = boxes(numbers, torch.from_numpy(store.index[:, 1:].copy())).tolist()
    for row, (top, left, height, width) in enumerate(found):
        part = store[row][top : top + height, left : left + width]
        image = Image.fromarray(part if channels == 3 else part[..., 0]).resize((14, 12), Image.Resampling.BILINEAR)
        theirs = np.asarray(image).reshape(12, 14, channels).astype(int)
        assert np.abs(out[row].astype(int) - theirs).max() <= BYTE_ROUNDING


def test_without_numbers_it_is_the_centre_square() -> None:
    store = photos(((12, 20),))
    out = cut(Uncut(store, (12, 12)), None)
    assert np.array_equal(out[0].numpy(), store[0][:, 4:16])
    assert torch.equal(apply(Uncut(store, (12, 12)), Drawn(()))[0].permute(1, 2, 0), out[0].float() / 255)


def test_squares_in_memory_are_cropped_too() -> None:
    images = torch.randint(0, 256, (5, 10, 12, 3), dtype=torch.uint8, generator=seeded())
    numbers = draw_crops(5, seeded(1))
    parts = [image.numpy() for image in images]
    index = np.array([(i * parts[0].size, 10, 12) for i in range(5)], dtype=np.int64)
    same = Uncut(Photos(np.concatenate([part.ravel() for part in parts]), index, 3), (10, 12))
    assert torch.equal(cut(images, numbers), cut(same, numbers))
    assert augment(images, ("rrc",), seeded()).shape == (5, 3, 10, 12)


def test_augment_of_whole_photos() -> None:
    given = Uncut(photos(), (12, 12))
    out = augment(given, ("rrc", "flip"), seeded(4))
    assert out.shape == (len(SIDES), 3, 12, 12)
    assert out.dtype == torch.float32
    assert out.is_contiguous(memory_format=torch.channels_last)
    drawn = draw(("rrc", "flip"), len(SIDES), (12, 12), seeded(4))
    assert drawn.crops is not None
    assert drawn.crops.shape == (len(SIDES), NUMBERS)
    assert drawn.mirrored is not None
    assert 0 < int(drawn.mirrored.sum()) < len(SIDES)
    plain = cut(given, drawn.crops).permute(0, 3, 1, 2).float() / 255
    assert torch.equal(out, torch.where(drawn.mirrored[:, None, None, None], plain.flip(3), plain))
    assert torch.equal(augment(given, ("flip", "rrc"), seeded(4)), out)


def test_a_part_of_a_batch_gets_the_same_views() -> None:
    given = Uncut(photos(), (12, 12))
    drawn, index = draw(("rrc", "flip"), len(SIDES), (12, 12), seeded()), torch.tensor([5, 0, 3])
    assert torch.equal(apply(given[index], drawn[index]), apply(given, drawn)[index])
    kept = Drawn(drawn.spec, **drawn.tensors)  # as a view cache stores it
    assert torch.equal(apply(given, kept), apply(given, drawn))


def test_batches_of_whole_photos_hang_on_seed_and_epoch_alone() -> None:
    data = TrainingData(Uncut(photos(), (12, 12)), torch.arange(len(SIDES)), ("rrc", "flip"))
    one, two, other = (list(batches(data, 4, 0, epoch, "cpu")) for epoch in (1, 1, 2))
    assert [len(batch.labels) for batch in one] == [4, 3]
    for a, b in zip(one, two, strict=True):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.labels, a.index)
    assert not torch.equal(one[0].images, other[0].images)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_crops_on_cuda_are_those_of_the_cpu() -> None:
    images = torch.randint(0, 256, (8, 20, 20, 3), dtype=torch.uint8, generator=seeded())
    numbers = draw_crops(8, seeded())
    difference = cut(images.cuda(), numbers).cpu().int() - cut(images, numbers).int()
    assert int(difference.abs().max()) <= BYTE_ROUNDING
