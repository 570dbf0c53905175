"""Broken data, wrong and poisoned checkpoints, a disk that refuses: seen through the command line."""

import os
import pickle
import resource
import subprocess
import sys

import pytest
import torch
import yaml
from safetensors.torch import save_file

TEACHER = {"model": "resnet8", "checkpoint": "teacher.pt"}
RECIPE = {
    "name": "hostile",
    "data": {"use": "digits", "train": 100},
    "teacher": TEACHER,
    "student": {"model": "resnet8", "fit": {"epochs": 1}},
    "distill": {"use": "kd"},
}
FITTED = {**RECIPE, "teacher": {"model": "resnet8", "fit": {"epochs": 1}}}
NOISE = bytes(range(256)) * 16


class Evil:
    """Unpickling it would create a file."""

    def __reduce__(self):
        return (os.system, ("touch pwned",))


def edgekd(*argv, cwd, limit=None):
    def cut():
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.run(
        [sys.executable, "-m", "edgekd", *argv], cwd=cwd, capture_output=True, text=True, check=False, preexec_fn=cut
    )


def train(folder, recipe=RECIPE, **more):
    (folder / "r.yaml").write_text(yaml.safe_dump(recipe))
    done = edgekd("train", "--recipe", "r.yaml", "--data-root", ".", cwd=folder, **more)
    assert "Traceback" not in done.stderr, done.stderr
    assert len(done.stderr.splitlines()) <= 25
    assert not list((folder / "workspace" / "artifacts").glob("teacher/*"))
    return done


def test_a_checkpoint_that_is_not_there_is_exit_2(tmp_path):
    done = train(tmp_path)
    assert done.returncode == 2 and "teacher.pt" in done.stderr and "r.yaml" in done.stderr


def test_a_checkpoint_of_another_network_is_exit_2(tmp_path):
    torch.save({"state_dict": {"module.conv9.weight": torch.zeros(3)}}, tmp_path / "teacher.pt")
    done = train(tmp_path)
    assert done.returncode == 2 and "conv9" in done.stderr


@pytest.mark.parametrize("content", [pickle.dumps(Evil()), b"", b"PK\x03\x04 cut short", NOISE])
def test_a_poisoned_or_damaged_checkpoint_is_exit_6_and_never_run(tmp_path, content):
    (tmp_path / "teacher.pt").write_bytes(content)
    done = train(tmp_path)
    assert done.returncode == 6, done.stderr
    assert not (tmp_path / "pwned").exists()


def test_a_cut_safetensors_checkpoint_is_exit_6(tmp_path):
    save_file({"a": torch.zeros(100)}, tmp_path / "teacher.safetensors")
    whole = (tmp_path / "teacher.safetensors").read_bytes()
    (tmp_path / "teacher.safetensors").write_bytes(whole[:200])
    done = train(tmp_path, {**RECIPE, "teacher": {**TEACHER, "checkpoint": "teacher.safetensors"}})
    assert done.returncode == 6


@pytest.mark.parametrize("content", [b"", b"PAR1 nothing PAR1", NOISE])
def test_corrupt_parquet_is_exit_6(tmp_path, content):
    folder = tmp_path / "photos"
    folder.mkdir()
    for split in ("train", "test"):
        (folder / f"{split}-00000-of-00001.parquet").write_bytes(content)
    done = train(tmp_path, {**FITTED, "data": {"use": "parquet", "path": "photos"}})
    assert done.returncode == 6 and "parquet" in done.stderr


def test_a_disk_that_refuses_is_exit_7_and_the_rerun_goes_on(tmp_path):
    done = train(tmp_path, FITTED, limit=200_000)  # the data fits, a checkpoint with its momentum does not
    assert done.returncode == 7, done.stderr
    again = edgekd("train", "--recipe", "r.yaml", cwd=tmp_path)
    assert again.returncode == 0 and "reused  data" in again.stderr
    assert edgekd("artifacts", "verify", cwd=tmp_path).returncode == 0
