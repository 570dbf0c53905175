from __future__ import annotations

import numpy as np
import pytest
from made_up import noise

from edgekd.data import normalize
from edgekd.errors import RecipeError

OWN = {"channels": 3, "normalize": {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}}


def test_names_and_the_data_sets_own() -> None:
    assert normalize.resolve("dataset", OWN) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert normalize.resolve("imagenet", OWN) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    with pytest.raises(RecipeError, match="did you mean 'imagenet'"):
        normalize.resolve("imagnet", OWN)
    with pytest.raises(RecipeError, match="3 channels"):
        normalize.resolve("cifar10", {"channels": 1, "normalize": {"mean": [0.5], "std": [0.5]}})


@pytest.mark.parametrize("channels", [1, 3])
def test_measured_equals_the_definition(channels: int) -> None:
    images = noise(5000, 4, 4, channels)  # more than one block
    mean, std = normalize.measure(images)
    scaled = images.astype(np.float64).reshape(-1, channels) / 255
    assert np.allclose(mean, scaled.mean(axis=0), atol=1e-6)
    assert np.allclose(std, scaled.std(axis=0), atol=1e-6)


def test_a_constant_channel_cannot_be_normalised() -> None:
    with pytest.raises(RecipeError, match="same value"):
        normalize.measure(np.zeros((2, 4, 4, 1), dtype=np.uint8))


def test_apply_is_float32_channels_first() -> None:
    images = noise(2, 4, 5)
    mean, std = normalize.NAMED["cifar10"]
    applied = normalize.apply(images, mean, std)
    assert applied.dtype == np.float32
    assert applied.shape == (2, 3, 4, 5)
    assert applied.flags.c_contiguous
    expected = (images[1, 2, 3, 0] / 255 - mean[0]) / std[0]
    assert applied[1, 0, 2, 3] == pytest.approx(expected, abs=1e-6)
