"""What ssh says becomes an error of one kind with a line to type; and how it is started. A program that plays ssh says it."""

import json
import os
import socket
import stat
import tempfile
from pathlib import Path

import pytest

from edgekd.errors import IntegrityError, MissingTool, StageFailed
from edgekd.transport import openssh
from edgekd.transport.ssh import Link

SAID = [
    ("@@@\n@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.", IntegrityError, "keygen -R"),
    ("No ED25519 host key is known for orin and you have requested strict checking.\nHost key verification failed.",
     MissingTool, "fingerprint"),
    ("me@orin: Permission denied (publickey).", MissingTool, "ssh-copy-id me@orin"),
    ("Received disconnect: Too many authentication failures", MissingTool, "ssh-copy-id"),
    ("ssh: Could not resolve hostname orin: Name or service not known", MissingTool, "~/.ssh/config"),
    ("ssh: connect to host orin port 22: Connection refused", MissingTool, "systemctl start ssh"),
    ("ssh: connect to host orin port 22: No route to host", MissingTool, "ping"),
    ("ssh: connect to host orin port 22: Connection timed out", MissingTool, "ping"),
    ("kex_exchange_identification: Connection closed by remote host", MissingTool, "ssh -v me@orin"),
    ("/home/me/.ssh/config: line 1: Bad configuration option: x", MissingTool, "ssh -v"),
    ("client_loop: send disconnect: Broken pipe", StageFailed, "nothing was measured yet"),
    ("Timeout, server orin not responding.", StageFailed, "nothing was measured yet"),
    ("", StageFailed, "nothing was measured yet"),
]  # fmt: skip


@pytest.fixture
def plays(tmp_path, monkeypatch):
    """`plays(text, code)`: from now on ssh says this and ends so; its command lines are in the file it gives."""

    def play(text="", code=255):
        (tmp_path / "said").write_text(text)
        program = tmp_path / "bin" / "ssh"
        program.parent.mkdir(exist_ok=True)
        heard = tmp_path / "heard"
        program.write_text(
            f'#!/bin/sh\nfor word; do printf "%s\\n" "$word" >> {heard}; done\ncat {tmp_path}/said >&2\nexit {code}\n'
        )
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
        return heard

    return play


@pytest.mark.parametrize(
    ("text", "kind", "hint"), SAID, ids=[text.splitlines()[-1][:40] if text else "" for text, *_ in SAID]
)
def test_each_failure_is_its_own_error(plays, text, kind, hint):
    plays(text)
    with pytest.raises(kind) as caught:
        Link("me@orin").facts()
    assert type(caught.value) is kind and "me@orin" in caught.value.where and hint in caught.value.hint


def test_no_two_failures_are_told_with_the_same_words():
    told = {openssh.meaning("me@orin", text, False).found.partition(" (")[0] for text, *_ in SAID}
    assert len(told) >= 9


def test_what_was_reached_and_is_refused_now_is_lost():
    error = openssh.meaning("me@orin", "ssh: connect to host orin port 22: Connection refused", True)
    assert isinstance(error, StageFailed) and error.exit_code == 7


NO_WORD = ["", '{"note": "x"}', '{"kept": 1}', '{"kept": {"answered": "a", "images": 2}}', "[]", "1", "{"]


@pytest.mark.parametrize("line", NO_WORD)
def test_what_the_runner_does_not_say_is_not_kept(line):
    assert openssh.kept(line) == ""


def test_the_last_word_about_what_is_kept_counts():
    said = [json.dumps({"kept": {"answered": n, "images": 10_000}}) for n in (0, 2_500)]
    assert "the latency part and 2,500 of 10,000 answers" in openssh.kept("\n".join(["x", *said, "Broken pipe"]))
    error = openssh.meaning("me@orin", "\n".join([said[0], "Broken pipe", said[1]]), True, openssh.kept(said[1]))
    assert error.found == "connection lost (Broken pipe)" and "2,500 of 10,000" in error.hint


def test_ssh_is_asked_for_nothing_it_could_ask_back(plays):
    heard = plays()
    with pytest.raises(StageFailed):
        Link("me@orin", ssh_options=["-p", "2222", "-o", "StrictHostKeyChecking=no"]).facts()
    words = heard.read_text().splitlines()
    strict = [word for word in words if word.startswith("StrictHostKeyChecking")]
    assert strict[0] == "StrictHostKeyChecking=yes"  # of two, ssh holds to the first
    for word in ("BatchMode=yes", "ControlMaster=auto", "ConnectTimeout=10", "ForwardAgent=no", "-p", "2222"):
        assert word in words
    at = words.index("--")
    assert words[at + 1] == "me@orin" and words[at + 2].startswith("python3 -c ")


def test_the_socket_path_is_short_however_long_the_temporary_folder(tmp_path, monkeypatch):
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    made = openssh._private()
    try:
        assert len(str(made)) + 1 + 40 + 17 < 104 and made.stat().st_mode & 0o077 == 0
    finally:
        made.rmdir()


def test_what_a_killed_process_left_is_removed_and_nothing_else(monkeypatch):
    dead, own, heard, other, link = (
        f"edgekd-ssh-{name}" for name in ("4194305-a", f"{os.getpid()}-b", "4194305-c", "x-d", "4194305-e")
    )
    with (
        tempfile.TemporaryDirectory(dir="/tmp") as short,  # a socket's path may have about a hundred characters
        socket.socket(socket.AF_UNIX) as listening,
    ):
        monkeypatch.setattr("tempfile.tempdir", short)
        monkeypatch.setattr(openssh, "MOST_PATH", 100)
        for name in (dead, own, heard, other):
            (Path(short) / name).mkdir()
        (Path(short) / dead / "left").touch()
        (Path(short) / link).symlink_to(own)
        listening.bind(f"{short}/{heard}/socket")
        listening.listen()
        made = openssh._private()
        there = {path.name for path in made.parent.iterdir() if path.name.startswith("edgekd-ssh-")}
        assert there == {own, heard, other, link, made.name}
        made.rmdir()


def test_without_ssh_the_line_that_installs_it(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingTool, match="no ssh here") as caught:
        Link("me@orin").facts()
    assert "openssh-client" in caught.value.hint


def test_an_answer_that_is_none_is_a_failed_stage(plays):
    plays("Traceback\nValueError: x", 1)
    with pytest.raises(StageFailed, match="exit code 1: ValueError"):
        Link("me@orin").facts()
