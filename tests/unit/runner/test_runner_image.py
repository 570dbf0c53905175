"""Normalisation against the formula in float64."""

import numpy as np
import pytest

from edgekd.runner.image import Normaliser

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


@pytest.mark.parametrize("shape", [(1, 32, 32, 3), (5, 7, 9, 3)])
def test_normaliser_is_the_formula(shape):
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    expected = ((images / 255 - np.array(MEAN)) / np.array(STD)).transpose(0, 3, 1, 2)
    found = Normaliser(MEAN, STD)(images)
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_grey_images():
    found = Normaliser([0.5], [0.25])(np.array([[[[0], [255]]]], np.uint8))
    np.testing.assert_allclose(found, [[[[-2.0, 2.0]]]], atol=1e-6)


def test_the_images_are_left_alone():
    images = np.full((2, 4, 4, 3), 7, np.uint8)
    Normaliser(MEAN, STD)(images)
    assert (images == 7).all()
