from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch

from edgekd.console import Console
from edgekd.errors import IntegrityError, StageFailed
from edgekd.fit import checkpoint


class Lines(Console):
    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []

    def log(self, line: str) -> None:
        self.lines.append(line)


def tensors(epoch: int) -> dict[str, torch.Tensor]:
    return {"a": torch.full((3, 2), float(epoch)), "n": torch.tensor(epoch), "none": torch.zeros(0)}


def fill(folder: Path, epochs: int) -> list[Path]:
    return [checkpoint.save(folder, epoch, tensors(epoch), {"epoch": epoch}) for epoch in range(1, epochs + 1)]


def test_the_newest_comes_back_and_only_two_are_kept(tmp_path: Path) -> None:
    fill(tmp_path, 4)
    found = checkpoint.load(tmp_path, Lines())
    assert found is not None
    assert found[1] == {"epoch": 4}
    assert torch.equal(found[0]["a"], tensors(4)["a"])
    assert found[0]["n"].item() == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"epoch-00000{n}.safetensors" for n in (3, 4)]


def test_nothing_there(tmp_path: Path) -> None:
    assert checkpoint.load(tmp_path / "absent", Lines()) is None


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "state"])
def test_a_damaged_one_falls_back_to_the_one_before(tmp_path: Path, damage: str) -> None:
    _, newest = fill(tmp_path, 2)
    content = newest.read_bytes()
    flipped = bytes([content[-1] ^ 1])
    newest.write_bytes(
        {
            "cut": content[:-5],
            "empty": b"",
            "flipped": content[:-1] + flipped,
            "state": content.replace(b'\\"epoch\\": 2', b'\\"epoch\\": 7'),
        }[damage]
    )
    assert newest.read_bytes() != content
    console = Lines()
    found = checkpoint.load(tmp_path, console)
    assert found is not None
    assert found[1] == {"epoch": 1}
    assert len(console.lines) == 1
    assert newest.name in console.lines[0]


def test_all_damaged_is_an_integrity_error(tmp_path: Path) -> None:
    for path in fill(tmp_path, 2):
        path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(IntegrityError, match="no usable checkpoint"):
        checkpoint.load(tmp_path, Lines())


def test_a_half_written_scratch_file_is_not_looked_at(tmp_path: Path) -> None:
    fill(tmp_path, 1)
    (tmp_path / "epoch-000002.safetensors.tmp").write_bytes(b"half")
    found = checkpoint.load(tmp_path, Lines())
    assert found is not None
    assert found[1] == {"epoch": 1}


def test_a_folder_that_cannot_be_written_is_a_failed_stage(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder", encoding="utf-8")
    with pytest.raises(StageFailed, match="checkpoint of epoch 1"):
        checkpoint.save(blocked, 1, tensors(1), {})


def test_a_full_disk_keeps_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, 1)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StageFailed, match="No space left"):
            checkpoint.save(tmp_path, 2, tensors(2), {})
    assert [path.name for path in tmp_path.iterdir()] == ["epoch-000001.safetensors"]
    found = checkpoint.load(tmp_path, Lines())
    assert found is not None
    assert found[1] == {"epoch": 1}


def test_a_planted_link_is_not_written_through(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("mine", encoding="utf-8")
    folder = tmp_path / "resume"
    folder.mkdir()
    for name in (f".epoch-000001.safetensors.{os.getpid()}", "epoch-000001.safetensors"):
        (folder / name).symlink_to(outside)
    checkpoint.save(folder, 1, tensors(1), {"epoch": 1})
    assert outside.read_text(encoding="utf-8") == "mine"
    assert checkpoint.load(folder, Lines()) is not None
