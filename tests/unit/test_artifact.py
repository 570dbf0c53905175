"""The store: what is sealed is whole, found by key, and every changed byte is named."""

import json
import multiprocessing
import time

import pytest

from edgekd import artifact as module
from edgekd import integrity
from edgekd.errors import IntegrityError, StageFailed, UsageError
from edgekd.store import Store

KEY = "ab" * 32
FACTS = {"params": {}, "inputs": {}, "metrics": {"top1_percent": 1.0}, "sealed_at": "2030-01-01"}


def make(store, step="student", key=KEY, content=b"weights", again=False, inputs=()):
    scratch = store.begin(step, key)
    (scratch.out / "weights.bin").write_bytes(content)
    (scratch.out / "log.txt").write_text(str(time.time_ns()))
    entries = {a.step: {"id": a.id, "step": a.step, "key": a.key, "digest": a.digest} for a in inputs}
    return store.seal(scratch, step, key, ("weights.bin",), {**FACTS, "inputs": entries}, again=again)


def test_sealed_is_found_by_key_and_by_every_name(tmp_path):
    store = Store(tmp_path)
    assert store.find("student", KEY) is None
    made = make(store)
    assert store.find("student", KEY).id == made.id == f"student/{KEY[:8]}-{made.digest[:8]}"
    store.tag("prod", made)
    for name in (made.id, "student/ab", "abab", "prod", "latest"):
        assert store.resolve(name).id == made.id
    assert not list((store.root / ".scratch").iterdir())


def test_the_id_hangs_on_the_payload_alone(tmp_path):
    first = make(Store(tmp_path / "a"))
    second = make(Store(tmp_path / "b"))
    other = make(Store(tmp_path / "c"), content=b"other")
    assert first.id == second.id != other.id


def test_a_repeat_is_kept_beside_the_first_only_when_asked(tmp_path):
    store = Store(tmp_path)
    first = make(store)
    assert make(store).path == first.path
    assert make(store, again=True).path.name == f"{first.path.name}.2"
    assert make(store, again=True).path.name == f"{first.path.name}.3"
    assert all(not integrity.verify(a) for a in store.all())


def test_nothing_unsealed_is_ever_listed(tmp_path):
    store = Store(tmp_path)
    scratch = store.begin("student", KEY)
    (scratch.out / "weights.bin").write_bytes(b"half")
    assert store.all() == [] and store.find("student", KEY) is None


def test_scratch_keeps_its_checkpoints_and_forgets_its_output(tmp_path):
    store = Store(tmp_path)
    scratch = store.begin("student", KEY)
    (scratch.out / "half.bin").write_bytes(b"x")
    (scratch.resume / "epoch.bin").write_bytes(b"y")
    scratch = store.begin("student", KEY)
    assert not list(scratch.out.iterdir()) and (scratch.resume / "epoch.bin").read_bytes() == b"y"


@pytest.mark.parametrize("name", ["weights.bin", "log.txt", "manifest.json"])
def test_one_flipped_byte_is_named(tmp_path, name):
    made = make(Store(tmp_path))
    assert integrity.verify(made) == []
    path = made.path / name
    data = bytearray(path.read_bytes())
    at = data.index(b"2030") if name == "manifest.json" else 0
    data[at] ^= 1
    path.write_bytes(data)
    (problem, *_) = integrity.damage(made.path)
    assert made.id in problem and name in problem


def test_missing_and_added_files_are_named(tmp_path):
    made = make(Store(tmp_path))
    (made.path / "log.txt").unlink()
    (made.path / "new.txt").write_text("x")
    text = "\n".join(integrity.verify(made))
    assert "log.txt is missing" in text and "new.txt was not sealed" in text


@pytest.mark.parametrize("content", ["{", "", "[]", None])
def test_a_damaged_manifest_hides_its_artifact_and_breaks_nothing_else(tmp_path, content):
    store = Store(tmp_path)
    other = make(store, step="teacher")
    path = make(store).path / "manifest.json"
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    assert [a.id for a in store.all()] == [other.id]
    assert store.broken() == [path.parent] and store.find("student", KEY) is None
    assert integrity.damage(path.parent)


def test_a_manifest_without_its_seal_is_no_whole_one(tmp_path):
    path = make(Store(tmp_path)).path
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest["seal"]
    manifest["metrics"]["top1_percent"] = 99.0
    (path / "manifest.json").write_text(json.dumps(manifest))
    assert integrity.damage(path)


@pytest.mark.parametrize("name", ["weights.bin", "manifest.json"])
def test_a_remake_takes_the_place_of_a_damaged_one(tmp_path, name):
    store = Store(tmp_path)
    path = make(store).path
    (path / name).write_bytes(b"damaged")
    again = make(store)
    assert again.path == path and not integrity.verify(again)
    assert store.broken() == [] and store.leftovers() == []


def test_a_busy_key_is_not_waited_for_when_asked(tmp_path):
    store = Store(tmp_path)
    with store.lock("student", KEY), pytest.raises(StageFailed, match="another process"):
        with store.lock("student", KEY):
            pass
    with store.lock("student", KEY):
        pass


def test_half_removed_folders_are_no_artifacts(tmp_path):
    store = Store(tmp_path)
    path = make(store).path
    path.rename(path.with_name(f".{path.name}.gone"))
    assert store.all() == [] and store.newest("student") is None
    (left,) = store.leftovers()
    store.remove(left)
    assert store.leftovers() == []


def test_hidden_files_are_no_tags(tmp_path):
    store = Store(tmp_path)
    store.tag("prod", make(store))
    (store.root / ".tags" / ".prod.123").write_text("x")
    assert list(store.tags()) == ["prod"]


def test_an_unknown_or_ambiguous_name_is_refused(tmp_path):
    store = Store(tmp_path)
    make(store)
    make(store, key="abcd" + KEY[4:])
    for name in ("student/ab", "nothing"):
        with pytest.raises(UsageError, match="exactly one"):
            store.resolve(name)


def test_a_symlink_is_no_artifact(tmp_path):
    store = Store(tmp_path)
    made = make(store)
    (made.path.parent / "abababab-00000000").symlink_to(made.path)
    assert [a.id for a in store.all()] == [made.id]
    assert len(list(store.of("student"))) == 1


def _hold(workspace, log, name):
    with Store(workspace).lock("student", KEY, waiting=lambda: None):
        with log.open("a") as file:
            file.write(f"{name} in\n")
        time.sleep(0.3)
        with log.open("a") as file:
            file.write(f"{name} out\n")


def test_two_processes_on_one_key_take_turns(tmp_path):
    log = tmp_path / "log"
    workers = [multiprocessing.get_context("spawn").Process(target=_hold, args=(tmp_path, log, n)) for n in "ab"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    lines = log.read_text().split("\n")[:4]
    assert [line[0] for line in lines] in (["a", "a", "b", "b"], ["b", "b", "a", "a"])


def test_canonical_json_is_one_text_for_one_value():
    assert module.canonical({"b": 1, "a": [1.5, "ü"]}) == '{"a":[1.5,"ü"],"b":1}'.encode()
    assert json.loads(module.canonical({"a": None})) == {"a": None}
    with pytest.raises(ValueError):
        module.canonical({"a": float("nan")})


def test_the_last_sealed_is_the_newest_whatever_the_clock_says(tmp_path, monkeypatch):
    store = Store(tmp_path)
    first = make(store, content=b"first")
    monkeypatch.setitem(FACTS, "sealed_at", "1999-01-01")
    second = make(store, content=b"second")
    assert store.find("student", KEY).id == store.newest("student").id == store.resolve("latest").id == second.id
    make(store, step="teacher", key="cd" * 32)
    assert store.newest("student").id == second.id != first.id


def test_a_removal_that_was_cut_short_is_in_nobodys_way(tmp_path):
    store = Store(tmp_path)
    path = make(store).path
    for ending in (".gone", ".damaged"):
        (path.with_name(f".{path.name}{ending}") / "left").mkdir(parents=True)
    (path / "weights.bin").write_bytes(b"damaged")
    assert make(store).path == path and integrity.damage(path) == []
    store.remove(path)
    assert store.all() == [] and store.leftovers() == []


@pytest.mark.parametrize("place", ["", "student", ".scratch", ".locks"])
def test_no_link_is_followed_to_write(tmp_path, place):
    store, outside = Store(tmp_path / "w"), tmp_path / "outside"
    outside.mkdir()
    store.root.parent.mkdir()
    (store.root / place).parent.mkdir(exist_ok=True)
    (store.root / place).symlink_to(outside)
    with pytest.raises(IntegrityError, match="symbolic link"):
        with store.lock("student", KEY):
            make(store)
    assert not list(outside.iterdir())


def test_nothing_behind_a_link_is_listed_to_be_removed(tmp_path):
    store, outside = Store(tmp_path / "w"), Store(tmp_path / "outside")
    path = make(outside).path
    (path.with_name(f".{path.name}.gone")).mkdir()
    (outside.root / ".scratch" / "student-1").mkdir(parents=True)
    make(store, step="teacher")
    (store.root / "student").symlink_to(path.parent)
    (store.root / ".scratch" / "student-1").symlink_to(outside.root)
    assert [a.step for a in store.all()] == ["teacher"]
    assert store.leftovers() == store.unfinished() == store.broken() == []
    with pytest.raises(IntegrityError, match="symbolic link"):
        store.remove(store.root / "student" / path.name)
    with pytest.raises(IntegrityError, match="symbolic link"):
        store.discard(store.root / ".scratch" / "student-1")
    assert path.is_dir()


def test_a_name_with_path_parts_names_nothing(tmp_path):
    store = Store(tmp_path / "w")
    other = make(Store(tmp_path / "other"))
    assert store.get(f"../../other/artifacts/{other.id}") is None
    with pytest.raises(UsageError, match="exactly one"):
        store.resolve(f"../../other/artifacts/{other.id}")


def test_a_damaged_artifact_that_is_asked_for_is_named(tmp_path):
    store = Store(tmp_path)
    made = make(store)
    (made.path / "manifest.json").write_text("{}")
    with pytest.raises(IntegrityError, match="damaged"):
        store.resolve(made.id)
