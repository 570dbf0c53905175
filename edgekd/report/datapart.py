"""What the data artifact and the steps behind it say about data: splits, and who looked at what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from edgekd.report.folder import Folder
from edgekd.report.schema import DataFacts


def data_facts(folders: Mapping[str, Folder]) -> DataFacts | None:
    """The data set of a run, None when its artifact has no data.json; folders must hold `data`."""
    folder = folders["data"]
    data = folder.json("data.json")
    if data is None:
        return None
    return DataFacts(
        artifact=folder.artifact.id,
        name=str(data.get("name", "")),
        kind=str(data.get("kind", "")),
        layout=str(data.get("layout", "")),
        shape=f"{data.get('height', '?')} x {data.get('width', '?')} x {data.get('channels', '?')}",
        classes=tuple(map(str, data.get("classes", ()))),
        splits={str(name): int(n) for name, n in (data.get("splits") or {}).items()},
        split_rule=str(data.get("split_rule", "")),
        duplicates=", ".join(f"{key} {value}" for key, value in (data.get("duplicates") or {}).items()),
        skipped=int(data.get("skipped", 0)),
        roles=tuple(_roles(folders, (data.get("splits") or {}).get("val"))),
    )


def _roles(folders: Mapping[str, Folder], own_val: int | None) -> Iterator[tuple[str, str]]:
    """Who looked at what; own_val: images of the data's own val split, None where it has none."""
    names = ("student", "teacher", *(name for name in folders if name.startswith(("graph", "quantized"))))
    first = next((folders[name] for name in names if name in folders), None)
    roles = (first.params.get("roles") or {}) if first is not None else {}
    fitted = first is not None and first.params.get("fit") is not None
    if roles.get("train") is not None:
        yield "train used", f"{roles['train']:,} images, a stratified subset"
    if "val" in roles and own_val is not None:
        part = f"{roles['val']:,} of its {own_val:,} images" if roles["val"] else f"{own_val:,} images, whole"
        yield "val", f"the data's own split, {part}"
    elif "val" in roles:
        none = "none: the last epoch is kept, test decides nothing" if fitted else "none"
        held = f"{roles['val']:,} images" if roles["val"] else none
        yield "val held out of train", held
    weighted = [name for name, folder in folders.items() if (folder.params.get("fit") or {}).get("class_weights")]
    if weighted:
        yield "class weights", f"balanced, in the loss of {' and '.join(weighted)}"
    for name, folder in folders.items():
        images = folder.metrics.get("calibration_images")
        if images is not None:
            yield "calibration", f"{images:,} un-augmented training images ({name})"
    # Not the data themselves, whose manifest counts the test images: they answer nothing.
    touched = [folder.artifact.manifest.get("test_touches", 0) for name, folder in folders.items() if name != "data"]
    touches = sum(map(int, touched))
    if touches:
        yield "test looked at", f"{touches} times, once by each evaluated artifact"
