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
        roles=tuple(_roles(folders)),
    )


def _roles(folders: Mapping[str, Folder]) -> Iterator[tuple[str, str]]:
    fitted = next((folders[name] for name in ("student", "teacher") if name in folders), None)
    roles = (fitted.params.get("roles") or {}) if fitted is not None else {}
    if roles.get("train") is not None:
        yield "train used", f"{roles['train']:,} images, a stratified subset"
    if "val" in roles:
        held = f"{roles['val']:,} images" if roles["val"] else "none: the last epoch is kept, test decides nothing"
        yield "val held out of train", held
    for name, folder in folders.items():
        images = folder.metrics.get("calibration_images")
        if images is not None:
            yield "calibration", f"{images:,} un-augmented training images ({name})"
    touches = sum(int(folder.artifact.manifest.get("test_touches", 0)) for folder in folders.values())
    if touches:
        yield "test looked at", f"{touches} times, once by each evaluated artifact"
