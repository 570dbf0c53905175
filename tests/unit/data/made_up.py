"""Small made-up data sets in every layout."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

Array = npt.NDArray[np.uint8]


def noise(n: int, height: int = 32, width: int = 32, channels: int = 3, seed: int = 0) -> Array:
    """[n, height, width, channels] uint8: no two alike."""
    return np.random.Generator(np.random.PCG64(seed)).integers(0, 256, (n, height, width, channels), dtype=np.uint8)


def encode(image: Array, kind: str = "PNG") -> bytes:
    """One image [H, W, C] as a file's bytes, lossless."""
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(buffer, kind)
    return buffer.getvalue()


def write_parquet(
    file: Path,
    blobs: Sequence[bytes | None],
    labels: Sequence[int | None],
    classes: Sequence[str] | None = ("cat", "dog"),
    column: str = "img",
    label: str = "label",
) -> Path:
    """A Parquet file as Hugging Face writes it, 3 rows a row group; beside `label` a column that must not be read."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cells = pa.array([{"bytes": blob, "path": "train/cat/never_read.png"} for blob in blobs], kind)
    feature = {
        label: {"names": list(classes or ()), "_type": "ClassLabel"},
        "coarse_label": {"names": ["never", "read"], "_type": "ClassLabel"},
    }
    metadata = {"huggingface": json.dumps({"info": {"features": feature}})} if classes is not None else {}
    schema = pa.schema([(column, kind), (label, pa.int64()), ("coarse_label", pa.int64())], metadata=metadata)
    file.parent.mkdir(parents=True, exist_ok=True)
    columns = [cells, pa.array(labels, pa.int64()), pa.array([0] * len(labels), pa.int64())]
    pq.write_table(pa.table(columns, schema=schema), file, row_group_size=3)
    return file


def parquet_folder(folder: Path, train: Array, test: Array, **options: object) -> Path:
    """train and test Parquet, labels alternating 0, 1."""
    for split, images in (("train", train), ("test", test)):
        labels = [row % 2 for row in range(len(images))]
        name = folder / f"{split}-00000-of-00001.parquet"
        write_parquet(name, [encode(image) for image in images], labels, **options)  # type: ignore[arg-type]
    return folder


def write_batches(folder: Path, train: Array, test: Array, classes: Sequence[str] = ("cat", "dog")) -> Path:
    """torchvision's layout; 5 training files, labels alternating 0, 1 over the whole of train."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = [(f"data_batch_{number + 1}", rows) for number, rows in enumerate(np.array_split(np.arange(len(train)), 5))]
    contents = [(name, train[rows], rows) for name, rows in parts] + [("test_batch", test, np.arange(len(test)))]
    for name, images, rows in contents:
        flat = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
        batch = {b"data": flat.copy(), b"labels": [int(row) % 2 for row in rows], b"batch_label": b"some bytes \xff"}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    meta = {b"label_names": [name.encode() for name in classes]}
    (folder / "batches.meta").write_bytes(pickle.dumps(meta, protocol=2))
    return folder
