"""Stage `data`: a data set decoded once to memory-mapped uint8 arrays, with no image in two splits."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from edgekd import registry
from edgekd.artifact import Artifact
from edgekd.data import normalize
from edgekd.data.base import SPLITS, DataSource, Decoded, Images, Labels, Photos, check_augment, check_resize
from edgekd.data.photos import PHOTOS
from edgekd.data.roles import DATA_FILE, PHOTOS_FILE, PHOTOS_INDEX_FILE, TWINS_FILE
from edgekd.data.stratify import Hashes, content_hashes, twins
from edgekd.errors import IntegrityError, RecipeError
from edgekd.params import DataParams
from edgekd.stages import reserved
from edgekd.stages.base import RunContext, StageResult

VERSION = 1

# An image in two splits is taken from the one named first.
GIVES_WAY = ("train", "val", "test")
BLOCK = 1024  # images copied at a time


def locate(params: DataParams, roots: Sequence[Path]) -> DataParams:
    """The parameters with `sources` and `layout` filled: the files' content, wherever they lie. Imports no framework.

    Raises:
        RecipeError: The data set is nowhere; every place looked in is listed.
    """
    located = _source(params).locate(roots)
    return params.model_copy(update={"sources": located.sources, "layout": located.layout})


def check(params: DataParams, context: RunContext) -> None:
    """Find the files and look at the parameters.

    Raises:
        RecipeError: The data set is nowhere, or a parameter cannot be carried out.
        IntegrityError: The files are not those that the step was keyed with.
    """
    check_resize(params.size, params.resize)
    source = _source(params)
    check_augment(source.augment)
    _check_sources(params, source.locate(context.data_roots).sources)


def run(params: DataParams, inputs: Mapping[str, Artifact], out: Path, context: RunContext) -> StageResult:
    """Decode, remove or refuse duplicates across splits, measure, write.

    Raises:
        RecipeError: Duplicates across splits under the rule `error`; splits or sizes that do not go together.
        IntegrityError: A corrupt file or image.
    """
    source = _source(params)
    located = source.locate(context.data_roots)
    _check_sources(params, located.sources)

    def allocate(split: str, shape: tuple[int, ...]) -> Images:
        return reserved.create(out / (PHOTOS_FILE if split == PHOTOS else f"images_{split}.npy"), shape, np.uint8)

    decoded = source.decode(located, params.size, params.resize, context.console, allocate)
    hashes = {split: content_hashes(images) for split, (images, _) in decoded.splits.items()}
    dropped, groups = _duplicates(hashes, params.duplicates)
    splits = _without(decoded, dropped, out)
    _check_classes(splits["train"][1], decoded.classes)
    repeated, _ = twins(np.delete(hashes["train"], dropped.get("train", [])))
    np.save(out / TWINS_FILE, repeated)
    for split, (images, labels) in splits.items():
        np.save(out / f"labels_{split}.npy", labels)
        cast("np.memmap[Any, Any]", images).flush()
    photo_files = () if decoded.photos is None else _keep_photos(decoded.photos, dropped, out)
    info = _describe(params, source, located.name, decoded, splits)
    if located.skipped:
        info["skipped"] = located.skipped
    info["duplicates"] = {
        "rule": params.duplicates,
        "dropped": sum(len(rows) for rows in dropped.values()),
        "groups": groups,
        "repeated_in_train": len(repeated),
    }
    (out / DATA_FILE).write_text(json.dumps(info, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    arrays = [f"{kind}_{split}.npy" for split in splits for kind in ("images", "labels")]
    return StageResult(_metrics(info), (DATA_FILE, *arrays, *photo_files, TWINS_FILE))


def _source(params: DataParams) -> DataSource:
    return cast("DataSource", registry.construct("data", params.use, params.args))


def _check_sources(params: DataParams, found: str) -> None:
    if params.sources and params.sources != found:
        raise IntegrityError(
            "data", "the source files changed during the run", "the files found at its start", "run again"
        )


def _duplicates(hashes: Mapping[str, Hashes], rule: str) -> tuple[dict[str, Any], int]:
    """Rows to drop of each split, and how many different images stand in more than one split.

    Raises:
        RecipeError: There are any and the rule is `error`.
    """
    present = [split for split in GIVES_WAY if split in hashes]
    dropped: dict[str, Any] = {}
    shared: set[bytes] = set()
    for place, split in enumerate(present[:-1]):
        later = np.concatenate([hashes[other] for other in present[place + 1 :]])
        rows = np.flatnonzero(np.isin(hashes[split], later))
        if len(rows):
            dropped[split] = rows
            shared.update(hashes[split][rows].tolist())
    if dropped and rule == "error":
        split = next(iter(dropped))
        row = int(dropped[split][0])
        other, twin = next(
            (name, int(np.flatnonzero(hashes[name] == hashes[split][row])[0]))
            for name in present[present.index(split) + 1 :]
            if bool(np.any(hashes[name] == hashes[split][row]))
        )
        raise RecipeError(
            "data.duplicates",
            f"{len(shared)} images stand in more than one split, first {split} row {row} = {other} row {twin}",
            "no image in two splits",
            "data: {duplicates: drop_train, ...} drops them from train",
        )
    return dropped, len(shared)


def _without(decoded: Decoded, dropped: Mapping[str, Any], out: Path) -> dict[str, tuple[Images, Labels]]:
    """The splits without the dropped rows, in their files."""
    splits = {split: decoded.splits[split] for split in SPLITS if split in decoded.splits}
    for split, rows in dropped.items():
        images, labels = splits[split]
        kept = np.delete(np.arange(len(images)), rows)
        if not len(kept):
            raise RecipeError("data.duplicates", f"every image of {split} is in another split too", "images of its own")
        path, partial = out / f"images_{split}.npy", out / f"images_{split}.partial.npy"
        fewer = reserved.create(partial, (len(kept), *images.shape[1:]), np.uint8)
        for start in range(0, len(kept), BLOCK):
            fewer[start : start + BLOCK] = images[kept[start : start + BLOCK]]
        partial.replace(path)
        splits[split] = (fewer, labels[kept])
    return splits


def _keep_photos(photos: Photos, dropped: Mapping[str, Any], out: Path) -> tuple[str, str]:
    """Write which photos stay in train; a dropped one keeps its bytes in the store, and no row leads to them."""
    cast("np.memmap[Any, Any]", photos.pixels).flush()
    np.save(out / PHOTOS_INDEX_FILE, np.delete(photos.index, dropped.get("train", []), axis=0))
    return PHOTOS_FILE, PHOTOS_INDEX_FILE


def _check_classes(labels: Labels, classes: Sequence[str]) -> None:
    missing = sorted(set(range(len(classes))) - set(np.unique(labels).tolist()))
    if missing:
        raise RecipeError("data.use", f"train has no image of class {classes[missing[0]]!r}", "every class in train")


def _describe(
    params: DataParams,
    source: DataSource,
    name: str,
    decoded: Decoded,
    splits: Mapping[str, tuple[Images, Labels]],
) -> dict[str, Any]:
    _, height, width, channels = splits["train"][0].shape
    mean, std = source.normalize or normalize.measure(splits["train"][0])
    if len(mean) != channels:
        raise RecipeError("data.use", f"images of {channels} channels", f"{len(mean)}, as {params.use} has")
    return {
        "name": name,
        "kind": params.use,
        "layout": decoded.layout,
        "classes": list(decoded.classes),
        "channels": channels,
        "height": height,
        "width": width,
        "normalize": {"mean": list(mean), "std": list(std)},
        "augment": list(source.augment),
        "splits": {split: len(labels) for split, (_, labels) in splits.items()},
        "split_rule": decoded.split_rule,
        "resize": None if params.size is None else {"size": params.size, "rule": params.resize or "fit-crop"},
    }


def _metrics(info: Mapping[str, Any]) -> dict[str, Any]:
    counts = {f"n_{split}": count for split, count in info["splits"].items()}
    shape = {key: info[key] for key in ("channels", "height", "width")}
    return {**counts, "classes": len(info["classes"]), **shape, "dropped": info["duplicates"]["dropped"]}
