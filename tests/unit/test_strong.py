"""Strong views against Pillow's operations, and what must hold of any."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from tolerances import AFFINE_TIES, BYTE_ROUNDING, LUMA_ROUNDING

from edgekd import strong
from edgekd.strong import OPERATIONS, Strength, strengthen

THIRD = 1 / 3  # magnitude 10 of 30


def picture(height: int = 24, width: int = 32, channels: int = 3, seed: int = 0) -> np.ndarray:
    """[H, W, C] uint8: smooth, with noise, levels 20 .. 230 in other shares in each channel."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    waves = [np.sin(rows / (3 + c) + c) + np.cos(columns / (4 + c)) for c in range(channels)]
    levels = 125 + 40 * np.stack(waves, axis=2) + random.normal(0, 12, (height, width, channels))
    return levels.clip(20, 230).astype(np.uint8)


def pillow(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def affine(image: Image.Image, xx=1.0, xy=0.0, x=0.0, yx=0.0, yy=1.0, y=0.0) -> Image.Image:
    """About the centre, as the batched form does it."""
    w, h = image.size[0] / 2, image.size[1] / 2
    rows = (xx, xy, x + w - xx * w - xy * h, yx, yy, y + h - yx * w - yy * h)
    return image.transform(image.size, Image.Transform.AFFINE, rows, Image.Resampling.NEAREST)


def solarized(image: Image.Image, sign: int) -> Image.Image:
    return ImageOps.solarize(image, 170)


def factor(sign: int) -> float:
    return 1 + sign * 0.9 * THIRD


def smoothed(image: Image.Image, sign: int) -> Image.Image:
    return ImageEnhance.Sharpness(image).enhance(factor(sign))


BY_PILLOW = {
    "AutoContrast": (lambda image, sign: ImageOps.autocontrast(image), BYTE_ROUNDING),
    "Equalize": (lambda image, sign: ImageOps.equalize(image), 0),
    "Invert": (lambda image, sign: ImageOps.invert(image), 0),
    "Posterize": (lambda image, sign: ImageOps.posterize(image, 7), 0),
    "Solarize": (solarized, 0),
    "Color": (lambda image, sign: ImageEnhance.Color(image).enhance(factor(sign)), LUMA_ROUNDING),
    "Contrast": (lambda image, sign: ImageEnhance.Contrast(image).enhance(factor(sign)), LUMA_ROUNDING),
    "Brightness": (lambda image, sign: ImageEnhance.Brightness(image).enhance(factor(sign)), BYTE_ROUNDING),
    "Sharpness": (smoothed, LUMA_ROUNDING),
}
COS, SIN = np.cos(np.pi / 18), np.sin(np.pi / 18)
MOVES = {
    "Rotate": lambda image, sign: affine(image, COS, -sign * SIN, 0, sign * SIN, COS, 0),
    "ShearX": lambda image, sign: affine(image, xy=sign * 0.1),
    "ShearY": lambda image, sign: affine(image, yx=sign * 0.1),
    "TranslateX": lambda image, sign: affine(image, x=sign * round(150 / 331 / 3 * image.size[0])),
    "TranslateY": lambda image, sign: affine(image, y=sign * round(150 / 331 / 3 * image.size[1])),
}


def ours(name: str, pixels: np.ndarray, sign: int) -> np.ndarray:
    """[H, W, C] uint8 by the batched form, between two other images that it must not mix in."""
    levels = torch.from_numpy(pixels).permute(2, 0, 1).float()
    batch = torch.stack([levels.flip(1), levels, 255 - levels])
    out = OPERATIONS[name](batch, Strength(THIRD, torch.tensor([1.0, sign, -1.0])))
    assert out.shape == batch.shape and out.min() >= 0 and out.max() <= 255.001
    return out[1].permute(1, 2, 0).round().clamp(0, 255).byte().numpy()


def theirs(change, pixels: np.ndarray, sign: int) -> np.ndarray:
    return np.asarray(change(pillow(pixels), sign)).reshape(pixels.shape)


def test_fourteen_operations_and_each_is_compared() -> None:
    assert len(OPERATIONS) == 14
    assert set(BY_PILLOW) | set(MOVES) == set(OPERATIONS)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", BY_PILLOW)
def test_levels_are_pillows(name, channels, sign) -> None:
    change, bound = BY_PILLOW[name]
    pixels = picture(channels=channels)
    found, expected = ours(name, pixels, sign), theirs(change, pixels, sign)
    assert np.abs(found.astype(int) - expected).max() <= bound
    assert not (channels == 3 or name != "Color") or not np.array_equal(found, pixels)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", MOVES)
def test_places_are_pillows(name, channels, sign) -> None:
    pixels = picture(channels=channels)
    found, expected = ours(name, pixels, sign), theirs(MOVES[name], pixels, sign)
    assert (found != expected).any(2).mean() <= AFFINE_TIES
    assert (found != pixels).any(2).mean() > 0.3  # it does move them
    assert not np.array_equal(found, ours(name, pixels, -sign))


@pytest.mark.parametrize("pixels", [np.full((8, 8, 3), 77, np.uint8), picture(5, 6), picture(1, 1), picture(2, 40)])
@pytest.mark.parametrize("name", ["AutoContrast", "Equalize", "Contrast", "Sharpness"])
def test_flat_and_tiny_images_are_pillows_too(name, pixels) -> None:
    change, bound = BY_PILLOW[name]
    if name == "Sharpness" and min(pixels.shape[:2]) < 3:
        assert np.array_equal(ours(name, pixels, 1), pixels)
        return
    assert np.abs(ours(name, pixels, 1).astype(int) - theirs(change, pixels, 1)).max() <= bound


def test_pillows_smoothing_is_what_sharpness_starts_from() -> None:
    pixels = picture()
    blurred = np.asarray(pillow(pixels).filter(ImageFilter.SMOOTH)).astype(int)
    levels = torch.from_numpy(pixels).permute(2, 0, 1).float()[None]
    found = strong.sharpness(levels, Strength(1 / 0.9, torch.tensor([-1.0])))[0].permute(1, 2, 0).round().numpy()
    assert np.abs(found - blurred).max() <= BYTE_ROUNDING


def batch(n: int = 32, channels: int = 3, height: int = 16, width: int = 16) -> torch.Tensor:
    pixels = [picture(height, width, channels, seed) for seed in range(n)]
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize("size", [(16, 16), (9, 14), (1, 1)])
def test_views_are_images_of_the_same_size(channels, size) -> None:
    images = batch(40, channels, *size)
    before = images.clone()
    views = strengthen(images, seeded(), ops=3)
    assert views.shape == images.shape and views.dtype == torch.float32
    assert views.is_contiguous(memory_format=torch.channels_last)
    assert torch.isfinite(views).all() and views.min() >= 0 and views.max() <= 1.00001
    assert torch.equal(images, before)


def test_only_the_given_generator_counts() -> None:
    images = batch()
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = strengthen(images, seeded(5))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(strengthen(images, seeded(5)), first)
    assert not torch.equal(strengthen(images, seeded(6)), first)
    generator = seeded(5)
    assert torch.equal(strengthen(images, generator), first)
    assert not torch.equal(strengthen(images, generator), first)


def test_an_image_is_changed_alike_whatever_stands_beside_it() -> None:
    images = batch()
    whole = strengthen(images, seeded(3))
    others = torch.cat([images[:1], images[1:].flip(3) * 0.5])
    assert torch.allclose(strengthen(others, seeded(3))[0], whole[0], atol=1e-6)


def test_each_image_has_its_own_operations_and_all_are_drawn() -> None:
    images = batch(1).expand(400, -1, -1, -1).contiguous()
    views = strengthen(images, seeded(), ops=1)
    uncut = [
        OPERATIONS[name](images[:1] * 255, Strength(THIRD, torch.tensor([float(sign)]))) / 255
        for name in OPERATIONS
        for sign in (1, -1)
    ]
    # a view belongs to the operation that it agrees with in most pixels, the cutout apart
    shares = torch.stack([((views - plain).abs() < 1e-4).all(1).float().mean((1, 2)) for plain in uncut], dim=1)
    best = shares.max(1)
    counts = torch.bincount(best.indices // 2, minlength=14)
    assert best.values.min() > 0.5
    assert counts.min() > 8 and counts.max() < 60  # 28.6 +- 5.2 of each


def test_cutout_is_a_grey_square_of_at_most_half_the_side() -> None:
    levels = torch.zeros(500, 3, 16, 20)
    numbers = torch.rand((3, 500), generator=seeded())
    grey = strong.cut_out(levels, numbers) != 0
    assert torch.equal(grey[:, 0], grey[:, 2])
    rows, columns = grey[:, 0].any(2).sum(1), grey[:, 0].any(1).sum(1)
    assert torch.equal(grey[:, 0].sum((1, 2)), rows * columns)  # a rectangle
    assert rows.max() == 8 and columns.max() == 8 and rows.min() == 0
    assert grey.any(0)[0].all()  # anywhere


def test_no_operation_and_no_image() -> None:
    images = batch(6)
    views = strengthen(images, seeded(), ops=0)
    kept = (views - images).abs() < 1e-6
    assert kept.all(1).float().mean() > 0.7
    assert strengthen(images[:0], seeded()).shape == (0, 3, 16, 16)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cpu_generator_gives_the_same_views_on_cuda() -> None:
    images = batch()
    here, there = strengthen(images, seeded()), strengthen(images.cuda(), seeded()).cpu()
    assert ((here - there).abs() > 1e-4).any(1).float().mean() <= AFFINE_TIES
