"""Choosing rows evenly over the classes, and finding images that are there more than once."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from edgekd.data.base import Images, Labels

Rows = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.bytes_]


def stratified(labels: Labels, eligible: Rows, n: int, generator: np.random.Generator) -> Rows:
    """Choose n of the eligible rows, each class in proportion to its eligible rows (largest remainder, then lower label).

    Args:
        labels: [N] int64, of all rows.
        eligible: Sorted rows to choose from.
        n: 0 .. len(eligible).
        generator: Decides which rows of a class.

    Returns:
        [n] int64, sorted.
    """
    classes, counts = np.unique(labels[eligible], return_counts=True)
    quotas = counts * n // max(len(eligible), 1)
    remainders = counts * n % max(len(eligible), 1)
    quotas[np.argsort(-remainders, kind="stable")[: n - int(quotas.sum())]] += 1
    chosen = [
        generator.permutation(eligible[labels[eligible] == label])[:quota]
        for label, quota in zip(classes, quotas, strict=True)
    ]
    return np.sort(np.concatenate([np.empty(0, dtype=np.int64), *chosen]))


def content_hashes(images: Images) -> Hashes:
    """[N] 16-byte BLAKE2b hashes of the pixels of [N, H, W, C]."""
    digests = b"".join(hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in images)
    return np.frombuffer(digests, dtype="S16")


def twins(hashes: npt.NDArray[np.generic]) -> tuple[Rows, int]:
    """Rows whose hash another row has too, sorted, and the number of groups that they form."""
    _, inverse, counts = np.unique(hashes, return_inverse=True, return_counts=True)
    return np.flatnonzero(counts[inverse] > 1).astype(np.int64), int((counts > 1).sum())


def fixed_split(labels: Labels, hashes: npt.NDArray[np.generic], test_fraction: float) -> tuple[Rows, Rows, str]:
    """(train rows, test rows, the rule in words): stratified, always the same; rows with a twin stay in train.

    A class that would go to test with every row gives only its own share: a lone image stays in train.
    """
    rows = np.arange(len(labels), dtype=np.int64)
    repeated, _ = twins(hashes)
    eligible = np.setdiff1d(rows, repeated, assume_unique=True)
    generator = np.random.Generator(np.random.PCG64(0))
    test = stratified(labels, eligible, min(round(test_fraction * len(rows)), len(eligible)), generator)
    for label in np.setdiff1d(labels, np.delete(labels, test)):
        own = test[labels[test] == label]
        given = stratified(labels, own, int(test_fraction * len(own)), generator)
        test = np.setdiff1d(test, np.setdiff1d(own, given, assume_unique=True), assume_unique=True)
    share = f"{100 - round(100 * test_fraction)}/{round(100 * test_fraction)}"
    rule = f"fixed {share} train/test, stratified by class (PCG64 seed 0); images that are there twice stay in train"
    return np.setdiff1d(rows, test, assume_unique=True), test, rule
