"""The store: what is sealed is whole, found by key, and every changed byte is named."""

import json
import multiprocessing
import time

import pytest

from edgekd import artifact as module
from edgekd.artifact import Store
from edgekd.errors import IntegrityError, UsageError

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
    assert all(not module.verify(a) for a in store.all())


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
    assert module.verify(made) == []
    path = made.path / name
    data = bytearray(path.read_bytes())
    at = data.index(b"2030") if name == "manifest.json" else 0
    data[at] ^= 1
    path.write_bytes(data)
    (problem, *_) = module.verify(module.read(made.path))
    assert made.id in problem and name in problem


def test_missing_and_added_files_are_named(tmp_path):
    made = make(Store(tmp_path))
    (made.path / "log.txt").unlink()
    (made.path / "new.txt").write_text("x")
    text = "\n".join(module.verify(made))
    assert "log.txt is missing" in text and "new.txt was not sealed" in text


def test_a_damaged_manifest_is_an_integrity_error(tmp_path):
    made = make(Store(tmp_path))
    (made.path / "manifest.json").write_text("{")
    with pytest.raises(IntegrityError, match="damaged"):
        Store(tmp_path).all()


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
    with Store(workspace).lock("student", KEY):
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
