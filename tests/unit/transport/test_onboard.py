"""The program that a board's Python is handed: old Python, hostile streams, one line whatever its source."""

import ast
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from edgekd.transport import onboard, openssh, parcel

SOURCE = Path(onboard.__file__).read_text()


def asked(verb, job, data=b""):
    argv = [sys.executable, "-c", openssh.program(SOURCE), verb, json.dumps(job)]
    return subprocess.run(argv, input=data, capture_output=True)


def stream(**files):
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name.replace("__", "/"))
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return held.getvalue()


def test_it_is_python_3_8_and_the_standard_library_alone():
    tree = ast.parse(SOURCE, feature_version=(3, 8))
    named = {a.name.partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
    named |= {(node.module or "").partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert named <= sys.stdlib_module_names
    for line in SOURCE.splitlines():
        assert not any(word in line for word in ("removeprefix", "removesuffix", "missing_ok", "match "))


def test_it_is_one_line_that_no_shell_changes():
    line = openssh.program(SOURCE)
    assert line.isprintable() and not set(line) & set('$`\\"\n!')
    assert len(openssh.quoted([line])) < 100_000  # a system takes 131,072 in one word


@pytest.mark.parametrize("name", ["../out", "a/../../out", "/etc/out", "", "."])
def test_no_name_leads_out_of_the_root(tmp_path, name):
    done = asked("have", {"root": str(tmp_path / "root"), "name": name})
    assert done.returncode == 6 and json.loads(done.stderr)["exit_code"] == 6


@pytest.mark.parametrize("name", ["..__out", "__tmp__out", "other"])
def test_what_was_not_announced_is_not_written(tmp_path, name):
    job = {"root": str(tmp_path / "root"), "name": "bench", "files": {"model": "0" * 64}}
    done = asked("take", job, stream(**{name: b"x"}))
    assert done.returncode == 6
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_an_announced_name_that_leads_out_is_not_written(tmp_path):
    job = {"root": str(tmp_path / "root"), "name": "bench", "files": {"../../out": "0" * 64}}
    assert asked("take", job, stream(**{"..__..__out": b"x"})).returncode == 6
    assert not (tmp_path / "out").exists()


def test_other_bytes_than_announced_are_not_kept(tmp_path):
    job = {"root": str(tmp_path / "root"), "name": "bench", "files": {"model": "0" * 64}}
    done = asked("take", job, stream(model=b"x"))
    assert done.returncode == 6 and b"arrived with other bytes" in done.stderr
    assert list((tmp_path / "root" / "bench").iterdir()) == []


def test_what_another_process_is_receiving_stays_and_what_a_dead_one_left_goes(tmp_path):
    folder, wanted = tmp_path / "root" / "bench", {"model": hashlib.sha256(b"x").hexdigest()}
    folder.mkdir(parents=True)
    for name in (f"model.{os.getpid()}.part", "model.4194305.part", "model.part", "old"):
        (folder / name).write_bytes(b"y")
    job = {"root": str(tmp_path / "root"), "name": "bench", "files": wanted}
    assert asked("take", job, stream(model=b"x")).returncode == 0
    assert sorted(path.name for path in folder.iterdir()) == ["model", f"model.{os.getpid()}.part"]


def test_a_stream_that_lies_about_a_file_is_refused_here(tmp_path):
    sums = json.dumps({"a": "0" * 64}).encode()
    with pytest.raises(parcel.IntegrityError, match="arrived with other bytes"):
        parcel.receive(io.BytesIO(stream(**{"sums.json": sums, "a": b"x"})), tmp_path, "board")
    with pytest.raises(parcel.IntegrityError, match="announced"):
        parcel.receive(io.BytesIO(stream(**{"sums.json": b"{}", "a": b"x"})), tmp_path, "board")
    with pytest.raises(parcel.IntegrityError, match="did not send a"):
        parcel.receive(io.BytesIO(stream(**{"sums.json": sums})), tmp_path, "board")
    with pytest.raises(parcel.IntegrityError, match="plain relative path"):
        lie = json.dumps({"../a": "0" * 64}).encode()
        parcel.receive(io.BytesIO(stream(**{"sums.json": lie, "..__a": b"x"})), tmp_path, "board")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_says_what_is_free(tmp_path):
    error = OSError(28, "No space left on device", str(tmp_path / "x"))
    fields = onboard.refused(error, {"root": str(tmp_path)})
    assert fields["exit_code"] == 7 and "No space left" in fields["found"] and "MiB free" in fields["found"]


def test_a_machine_with_nothing_to_read_still_answers(tmp_path, monkeypatch):
    monkeypatch.setattr(onboard, "BOOT", tmp_path / "none")
    assert onboard.facts({"root": str(tmp_path / "a" / "b")})["boot"] == ""
