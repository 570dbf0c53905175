"""Data that would fill the memory, never end, run code or write elsewhere: refused by name, or carried as harmless text."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import struct
import time
import zlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_up import encode, noise, parquet_folder, write_batches, write_parquet
from PIL import Image

from edgekd.console import Console
from edgekd.data.base import Decoded
from edgekd.data.cifar10 import CIFAR10
from edgekd.data.classnames import LONGEST, check_class_names
from edgekd.data.imagefolder import ImageFolder
from edgekd.data.images import Form, probe, to_array
from edgekd.data.parquet import ImageParquet
from edgekd.errors import IntegrityError, RecipeError
from edgekd.params import DataParams
from edgekd.stages import data
from edgekd.stages.base import RunContext

HARMLESS = (
    "<script>alert(1)</script>",
    "../../x",
    "/etc/passwd",
    "C:\\x",
    "$x_$",
    "[red]",
    "{{ 7 }}",
    "猫 🐈",
    "می‌شود",
    "x" * LONGEST,
)
REFUSED = ("", " \t", "a\nb", "a\x00b", "\x1b[2J", "a\x7f", "\x9b31m", "a\u2028b", "bad \udcff name", "x" * 10_000)


def png(width: int, height: int, pixels: bytes = b"") -> bytes:
    """A PNG whose header tells a size that its pixels do not have."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


def decode(folder: Path, size: int | None = None, resize: str | None = None) -> Decoded:
    source = ImageParquet(str(folder))
    return source.decode(source.locate([]), size, resize, Console(quiet=True))


@pytest.mark.parametrize("sides", [(50_000, 50_000), (12_000, 12_000), (2**31 - 1, 1), (2**31 - 1, 2**31 - 1), (0, 5)])
@pytest.mark.parametrize("resize", ["fit-crop", "photo"])
def test_a_bomb_is_named_and_not_unpacked(tmp_path: Path, sides: tuple[int, int], resize: str) -> None:
    bomb = png(*sides, bytes(1000))
    write_parquet(tmp_path / "train.parquet", [encode(noise(1)[0]), bomb], [0, 1])
    write_parquet(tmp_path / "test.parquet", [encode(image) for image in noise(2, seed=1)], [0, 1])
    with pytest.raises(IntegrityError, match=r"train\.parquet, row 1: corrupt"):
        decode(tmp_path, 8, resize)


def test_a_header_larger_than_its_pixels(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="row 3: corrupt image"):
        to_array(png(64, 64, bytes(100)), "row 3", Form(64, 64, 3))


def test_mixed_sizes_and_an_empty_split_of_parquet(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", [encode(noise(1, 8, 8)[0]), encode(noise(1, 9, 8)[0])], [0, 1])
    write_parquet(tmp_path / "test.parquet", [encode(image) for image in noise(2, 8, 8, seed=1)], [0, 1])
    with pytest.raises(RecipeError, match="images of 2 sizes"):
        decode(tmp_path)
    assert decode(tmp_path, 8, "photo").splits["train"][0].shape == (2, 8, 8, 3)
    write_parquet(tmp_path / "test.parquet", [], [])
    with pytest.raises(RecipeError, match="test has no images"):
        decode(tmp_path, 8)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "PPM", "TIFF", "GIF"])
def test_damaged_images_end_in_a_clear_error(kind: str) -> None:
    """100 files of each kind cut short or with bytes changed: an array of the right shape, or an error that says where."""
    buffer = io.BytesIO()
    Image.fromarray(noise(1, 24, 30)[0]).save(buffer, kind)
    whole, choose, refused = buffer.getvalue(), random.Random(0), 0
    for number in range(100):
        damaged = bytearray(whole)
        if number % 2:
            del damaged[choose.randrange(len(damaged)) :]
        for _ in range(choose.choice([0, 1, 4, 30])):
            if damaged:
                damaged[choose.randrange(len(damaged))] = choose.randrange(256)
        try:
            probe(bytes(damaged), "row 5")
            assert to_array(bytes(damaged), "row 5", Form(16, 16, 3, "photo")).shape == (16, 16, 3)
        except IntegrityError as error:
            assert error.where == "row 5"
            refused += 1
    assert refused > 20


@pytest.mark.parametrize("name", REFUSED)
def test_a_class_name_that_is_no_line_of_text(tmp_path: Path, name: str) -> None:
    with pytest.raises(RecipeError) as caught:
        check_class_names(("cat", name), "file")
    text = str(caught.value)
    assert "class 1" in text
    assert len(text) < 400
    assert text.isprintable() or set(text) - {"\n"} == {letter for letter in text if letter.isprintable()}


@pytest.mark.parametrize("name", [name for name in REFUSED if "\udcff" not in name])
def test_refused_in_parquet_and_batches(tmp_path: Path, name: str) -> None:
    parquet_folder(tmp_path / "p", noise(2), noise(2, seed=1), classes=("cat", name))
    with pytest.raises(RecipeError, match="class 1"):
        decode(tmp_path / "p")
    write_batches(tmp_path / "cifar-10-batches-py", noise(10), noise(2, seed=1), ("cat", name or " "))
    source = CIFAR10()
    with pytest.raises(RecipeError, match=r"batches\.meta: .*class 1"):
        source.decode(source.locate([tmp_path]), None, None, Console(quiet=True))


@pytest.mark.skipif(os.name == "nt", reason="needs a POSIX file system")
@pytest.mark.parametrize("name", [b"a\nb", b"\x1b[2J", b"bad \xff name"])
def test_refused_as_a_folder(tmp_path: Path, name: bytes) -> None:
    for folder in (b"cat", name):
        place = tmp_path / os.fsdecode(folder)
        place.mkdir()
        for row, image in enumerate(noise(5, seed=len(folder))):
            (place / f"{row}.png").write_bytes(encode(image))
    source = ImageFolder(str(tmp_path))
    with pytest.raises(RecipeError, match="control characters"):
        source.decode(source.locate([]), None, None, Console(quiet=True))


def test_other_names_are_carried_as_text_and_nothing_is_written_outside(tmp_path: Path) -> None:
    classes = HARMLESS
    labels = list(range(len(classes)))
    for split, seed in (("train", 0), ("test", 1)):
        blobs = [encode(image) for image in noise(len(classes), 8, 8, seed=seed)]
        write_parquet(tmp_path / "in" / "set" / f"{split}.parquet", blobs, labels, classes)
    out = tmp_path / "out" / "deep"
    out.mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    context = RunContext((tmp_path / "in",), None, tmp_path / "resume", Console(quiet=True))
    result = data.run(
        data.locate(DataParams(use="parquet", args={"path": "set"}), context.data_roots), {}, out, context
    )
    assert json.loads((out / "data.json").read_text(encoding="utf-8"))["classes"] == list(classes)
    assert set(tmp_path.rglob("*")) - set(before) == {out / name for name in result.payload}


def nested(levels: int) -> list[object]:
    """A few bytes as a pickle, 2^levels items as text."""
    inner: list[object] = [b"x"]
    for _ in range(levels):
        inner = [inner, inner]
    return inner


def test_an_error_message_ends_whatever_the_pickle_holds(tmp_path: Path) -> None:
    folder = write_batches(tmp_path / "cifar-10-batches-py", noise(10), noise(2, seed=1))
    meta = (folder / "batches.meta").read_bytes()
    source = CIFAR10()
    start = time.process_time()
    for file, content in (
        ("batches.meta", {b"label_names": nested(60)}),
        ("test_batch", {b"data": noise(2).reshape(2, -1), b"labels": [0, nested(60)]}),
    ):
        (folder / file).write_bytes(pickle.dumps(content, protocol=2))
        with pytest.raises(IntegrityError, match=file):
            source.decode(source.locate([tmp_path]), None, None, Console(quiet=True))
        (folder / "batches.meta").write_bytes(meta)
    assert time.process_time() - start < 60  # written out, 2^60 items take longer than a life


def test_metadata_nested_without_end(tmp_path: Path) -> None:
    parquet_folder(tmp_path, noise(2), noise(2, seed=1))
    file = tmp_path / "train-00000-of-00001.parquet"
    deep = pq.read_table(file).replace_schema_metadata({"huggingface": "[" * 200_000})
    pq.write_table(pa.table(deep), file)
    with pytest.raises(RecipeError, match="no class names"):
        decode(tmp_path)


def test_labels_as_large_as_they_come(tmp_path: Path) -> None:
    write_parquet(tmp_path / "test.parquet", [encode(image) for image in noise(2, seed=1)], [0, 1])
    write_parquet(tmp_path / "train.parquet", [encode(image) for image in noise(2)], [0, 2**63 - 1])
    with pytest.raises(IntegrityError, match=r"train\.parquet, row 1: label 9223372036854775807"):
        decode(tmp_path)
    huge = pa.array([0, 2**64 - 1], pa.uint64())
    table = pq.read_table(tmp_path / "train.parquet")
    pq.write_table(table.set_column(table.schema.get_field_index("label"), "label", huge), tmp_path / "train.parquet")
    with pytest.raises(IntegrityError, match=r"train\.parquet, row 1: label"):
        decode(tmp_path)
