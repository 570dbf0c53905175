"""The small part of `make test-faults` that belongs to `make test`: a few kills, and one fault of each kind."""

from __future__ import annotations

import signal
from random import Random

import pytest

from tests.faults import chain, kills, others
from tests.faults.chain import Failed, Process, command

DISTILL = ("distill",)
TRAIN = ("train", "--recipe", "tiny.yaml", "--threads", "1")


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return chain.unbroken(tmp_path_factory.mktemp("unbroken") / "w", *DISTILL)


@pytest.fixture
def folder(tmp_path):
    with chain.fresh(tmp_path / "w") as place:
        yield place


@pytest.fixture
def seed():
    return Random(0)


def test_kill_9_loses_nothing(tmp_path, reference, seed):
    quota = {"teacher": 1, "student": 1}
    count = kills.campaign(tmp_path / "w", *reference, quota, seed, DISTILL)
    assert count.problems == []
    assert count.kills.total() == count.survived.total() >= 1


def test_another_process_takes_over_from_a_killed_one(tmp_path, reference, seed):
    others.killed_holder(tmp_path / "w", reference[0], seed)


def test_a_damaged_checkpoint_gives_no_other_result(tmp_path, reference, seed):
    others.damaged_checkpoint(tmp_path / "w", reference[0], seed)


def test_a_request_to_end_is_obeyed(folder, reference):
    process = Process(folder, DISTILL)
    assert process.reach("making  teacher ")
    assert process.send(signal.SIGTERM, group=False)
    process.end()
    others.clear(process, 130)
    chain.check(folder, reference[0])


@pytest.mark.parametrize(("kib", "options"), [(60, "size=64m"), (300, "size=64m"), (65536, "ro")])
def test_a_full_or_read_only_disk_is_exit_7_and_the_rerun_finishes(folder, reference, kib, options):
    try:
        with others.small_disk(folder / "workspace", kib) as remount:
            remount(options if options == "ro" else "rw")
            code, said = command(folder, *TRAIN)
            assert code == 7 and "Traceback" not in said, said
            assert len(said.splitlines()) < 30
            remount("rw" if options == "ro" else options)
            chain.check(folder, reference[0])
            code, said = command(folder, *TRAIN)
            assert code == 0, said
            assert chain.ids(folder) == {step: reference[0][step] for step in ("data", "teacher")}
    except others.Skipped as reason:
        pytest.skip(str(reason))


def test_the_campaign_sees_what_is_lost(folder, reference):
    assert command(folder, *TRAIN)[0] == 0
    chain.check(folder, reference[0])
    with pytest.raises(Failed, match="not that of the unbroken run"):
        chain.check(folder, {**reference[0], "teacher": "teacher/00000000-00000000"})
    (path,) = (folder / "workspace" / "artifacts" / "teacher").glob("*/predictions.npz")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(Failed, match="not whole"):
        chain.check(folder, reference[0])
    (path.parent / "manifest.json").unlink()
    with pytest.raises(Failed, match="half-made"):
        chain.check(folder, reference[0])
