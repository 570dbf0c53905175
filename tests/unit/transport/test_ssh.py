"""The SSH transport against a real sshd on 127.0.0.1; where there is none the tests are skipped by name."""

import getpass
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from edgekd import registry
from edgekd.errors import IntegrityError, MissingTool, StageFailed, UsageError
from edgekd.transport import onboard, openssh, ssh
from edgekd.transport.base import Transport

HOSTILE = ("$(touch pwned)", "a b", "`id`", "x\ny", "'; rm -rf .;'", '"', "\\", "-e", "*", "~", "", "é\u202e", "$HOME")
LIMIT = 20  # seconds until something that takes a fraction of one has happened


@pytest.fixture
def bundle(tmp_path):
    """A folder with names that a shell would take for something else."""
    folder = tmp_path / "bench"
    (folder / "sub").mkdir(parents=True)
    for name in ("model.onnx", "$(touch pwned)", "a b\n'c", "sub/-rf"):
        (folder / name).write_bytes(name.encode() * 1000)
    (folder / "run").write_text("#!/bin/sh\n")
    (folder / "run").chmod(0o700)
    return folder


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}


def until(there, what="it"):
    limit = time.monotonic() + LIMIT
    while not there():
        assert time.monotonic() < limit, f"never: {what}"
        time.sleep(0.01)


def test_it_is_a_transport_by_name(sshd):
    made = registry.construct("transport", "ssh", {"host": sshd.host, "ssh_options": sshd.options})
    assert isinstance(made, Transport) and made.python == "python3" and not made.shares_files


def test_every_word_arrives_as_it_was(board):
    code = "import json, sys; print(json.dumps(sys.argv[1:]))"
    link = board()
    assert json.loads(link.run([link.python, "-c", code, *HOSTILE]).stdout) == list(HOSTILE)


def test_exit_code_stdout_and_stderr_are_the_commands(board):
    done = board().run(["/bin/sh", "-c", "echo out; echo err >&2; exit 5"])
    assert (done.returncode, done.stdout, done.stderr) == (5, "out\n", "err\n")


def test_there_and_back_is_the_same_and_only_what_is_missing_is_sent(board, bundle, tmp_path):
    link = board()
    there = link.push(bundle)
    assert contents(there) == contents(bundle) and os.access(f"{there}/run", os.X_OK)
    assert link.sent == (5, sum(len(content) for content in contents(bundle).values()))
    assert link.push(bundle) == there and link.sent == (0, 0)
    (Path(there) / "model.onnx").write_bytes(b"other")  # a byte that rotted there
    (Path(there) / "left over").write_text("of before")
    link.push(bundle)
    assert link.sent[0] == 1 and contents(there) == contents(bundle)
    back = tmp_path / "back"
    back.mkdir()
    link.pull(there, back)
    assert contents(back) == contents(bundle)
    link.clear(there)
    assert not Path(there).exists()
    with pytest.raises(StageFailed, match="is not there"):
        link.pull(there, back)


def test_nothing_is_written_through_a_link(board, bundle, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "bench").symlink_to(outside)
    with pytest.raises(IntegrityError, match="symbolic link"):
        board().push(bundle)
    assert list(outside.iterdir()) == []


def test_a_disk_that_takes_no_more_is_a_failed_stage(board, bundle):
    """A process that may write no large file stands for a full disk."""
    script = bundle.parent / "small"
    limit = "import os, resource, signal, sys\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    limit += "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
    script.write_text(f"#!{sys.executable}\n{limit}os.execv({sys.executable!r}, ['python', *sys.argv[1:]])\n")
    script.chmod(0o755)
    (bundle / "large").write_bytes(b"x" * 1_000_000)
    with pytest.raises(StageFailed, match="File too large"):
        board(python=str(script)).push(bundle)
    assert not list((bundle.parent / "there").rglob("*.part"))


def test_a_killed_command_is_a_failed_stage(board):
    with pytest.raises(StageFailed, match=r"killed by SIGKILL .*memory"):
        board().run([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"])


def test_a_program_that_is_not_there_is_named(board):
    with pytest.raises(MissingTool, match="no such program"):
        board().run(["no-such-program"])


def test_without_python_the_line_that_installs_it(board):
    with pytest.raises(MissingTool, match="no such Python") as caught:
        board(python="python9.9").facts()
    assert "apt-get install python3" in caught.value.hint


def test_an_old_python_is_refused(board, tmp_path):
    old = tmp_path / "python2"
    old.write_text("#!/bin/sh\necho 'edgekd: python 2.7.18' >&2\nexit 1\n")
    old.chmod(0o755)
    with pytest.raises(MissingTool, match=r"is 2\.7\.18"):
        board(python=str(old)).facts()


def test_a_shell_that_talks_at_login_is_named(board, bundle, tmp_path):
    link = board()
    there = link.push(bundle)
    chatty = tmp_path / "chatty"
    chatty.write_text(f'#!/bin/sh\necho Welcome to your board\nexec {sys.executable} "$@"\n')
    chatty.chmod(0o755)
    (tmp_path / "back").mkdir()
    with pytest.raises(StageFailed, match="print something at login"):
        board(python=str(chatty)).pull(there, tmp_path / "back")


def test_a_started_command_can_be_talked_to(board):
    child = board().start([sys.executable, "-c", "print(input()[::-1])"])
    assert child.communicate("hello\n") == ("olleh\n", "") and child.returncode == 0


WORDS = {  # of a runner before its connection is lost -> what the error must say of it
    "": openssh.NOTHING,
    json.dumps({"kept": {"answered": 1_500, "images": 2_000}}): "the latency part and 1,500 of 2,000 answers",
}


@pytest.mark.parametrize("word", WORDS, ids=["nothing measured", "in mid-run"])
def test_a_command_dies_with_its_connection_and_what_is_kept_is_said(board, tmp_path, word):
    """Nobody's runner goes on measuring on the board."""
    link, mark = board(own=True), tmp_path / "pid"
    code = f"import os, sys, time; print({word!r}, file=sys.stderr, flush=True); time.sleep(0.3); "
    code += f"open({str(mark)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    failed = []

    def running():
        try:
            with link.held(print):
                link.run([sys.executable, "-c", code])
        except StageFailed as error:
            failed.append(error)

    thread = threading.Thread(target=running)
    thread.start()
    until(lambda: mark.exists() and mark.read_text(), "it started")
    subprocess.run([*link._client.argv(["true"])[:-3], "-O", "exit", "--", link.host], capture_output=True)
    thread.join(LIMIT)
    assert "connection lost" in str(failed[0]) and WORDS[word] in failed[0].hint
    until(lambda: not Path(f"/proc/{mark.read_text()}").exists(), "the command ended")


def test_a_lost_way_back_says_that_all_is_kept_and_a_cleared_folder_that_nothing_is(board):
    link = board()
    done = json.dumps({"kept": {"answered": 2_000, "images": 2_000}})
    with link.held(print):
        assert link.run([sys.executable, "-c", f"import sys; print({done!r}, file=sys.stderr)"]).returncode == 0
        assert "2,000 of 2,000" in link._left
        link.clear(f"{link.facts()['root']}/runs/x")
        assert link._left == openssh.NOTHING
        link._left = "of the target before"
    with link.held(print):
        assert link._left == openssh.NOTHING


def test_host_key_unknown_and_changed(board, sshd, tmp_path):
    known = sshd.known.read_text()
    try:
        sshd.known.write_text("")
        with pytest.raises(MissingTool, match="host key is not known") as unknown:
            board(own=True).facts()
        assert "ssh " in unknown.value.hint and "fingerprint" in unknown.value.hint
        other = (sshd.folder / "key.pub").read_text()
        sshd.known.write_text(f"[127.0.0.1]:{sshd.port} {other}")
        with pytest.raises(IntegrityError, match="another one than before"):
            board(own=True).facts()
        assert sshd.known.read_text() == f"[127.0.0.1]:{sshd.port} {other}"  # nothing was accepted silently
    finally:
        sshd.known.write_text(known)


def test_another_users_key_is_refused(sshd, tmp_path):
    from edgekd.transport.ssh import Link

    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "other"], check=True)
    options = ["-o", "IdentityAgent=none", "-i", str(tmp_path / "other"), "-o", f"UserKnownHostsFile={sshd.known}"]
    options += ["-F", "/dev/null", "-o", "IdentitiesOnly=yes", "-p", str(sshd.port)]
    with pytest.raises(MissingTool, match="no key of yours is accepted") as caught:
        Link(sshd.host, ssh_options=options).facts()
    assert "ssh-copy-id" in caught.value.hint


def test_one_user_at_a_time(board):
    said = []
    with board().held(said.append):
        with pytest.raises(StageFailed, match="is in use by") as caught:
            with board().held(said.append):
                raise AssertionError("held twice")
        assert caught.value.exit_code == 7
    with board().held(said.append):
        assert said == []


def test_other_accounts_and_folders_of_a_board_have_the_same_lock(board, tmp_path):
    one, other = board(), board(folder=str(tmp_path / "of another"))
    with one.held(print):
        with pytest.raises(StageFailed, match=f"is in use by {getpass.getuser()}@"):
            with other.held(print):
                raise AssertionError("held twice")
    with other.held(print):
        assert (tmp_path / "everyone").stat().st_mode & 0o777 == 0o666
    (tmp_path / "everyone").unlink()
    (tmp_path / "everyone").symlink_to(tmp_path / "elsewhere")
    with one.held(print):
        assert not (tmp_path / "elsewhere").exists()


def test_a_shell_that_talks_at_login_is_named_before_work(board, tmp_path):
    chatty = tmp_path / "chatty"
    chatty.write_text(f'#!/bin/sh\necho Welcome to your board\nexec {sys.executable} "$@"\n')
    chatty.chmod(0o755)
    with pytest.raises(StageFailed, match=r"Welcome.* print something at login"):
        with board(python=str(chatty)).held(print):
            raise AssertionError("held")


def test_of_many_that_come_at_once_one_gets_it(sshd, tmp_path):
    """Processes, not threads: nothing of this side can keep them apart."""
    code = (
        "import sys, time\nfrom edgekd.errors import StageFailed\nfrom edgekd.transport import ssh\n"
        f"from edgekd.transport.ssh import Link\nssh.EVERYONE = {str(tmp_path / 'no' / 'file')!r}\n"
        f"link = Link({sshd.host!r}, sys.executable, {str(tmp_path / 'there')!r}, {sshd.options!r})\n"
        "try:\n    with link.held(print):\n        print('got', flush=True)\n        sys.stdin.readline()\n"
        "except StageFailed as error:\n    print('busy', flush=True)\n"
    )
    pipe = subprocess.PIPE
    children = [subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, text=True) for _ in range(3)]
    said = [child.stdout.readline().strip() for child in children]
    for child in children:
        child.communicate("\n")
    assert sorted(said) == ["busy", "busy", "got"]
    assert not (tmp_path / "there" / "lock.json").exists()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"boot": "another"}, "started again since"),
        ({"pid": 2**22 + 1}, "its process is gone"),
        ({"token": None}, "unreadable"),
    ],
)
def test_a_lock_that_nobody_holds_is_recovered_and_said(board, tmp_path, change, why):
    held = {"token": "t", "owner": "somebody", "host": "elsewhere", "pid": 1, "boot": onboard.boot_id(), "start": 0}
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "lock.json").write_text(json.dumps({**held, **change}))
    said = []
    with board().held(said.append):
        assert len(said) == 1 and why in said[0] and "somebody@elsewhere" in said[0]


def test_a_lock_unheard_of_for_long_is_recovered_and_a_young_one_is_not(board, tmp_path):
    held = {
        "token": "t",
        "owner": "somebody",
        "host": "elsewhere",
        "pid": os.getpid(),
        "boot": onboard.boot_id(),
        "start": 0,
    }
    (tmp_path / "there").mkdir()
    lock = tmp_path / "there" / "lock.json"
    lock.write_text(json.dumps(held))
    with pytest.raises(StageFailed, match="somebody@elsewhere"):
        with board().held(print):
            pass
    os.utime(lock, (time.time() - 3600,) * 2)
    said = []
    with board().held(said.append):
        assert "not heard of for 36" in said[0]


def test_a_command_stops_when_the_lock_is_taken_away(board, tmp_path, monkeypatch):
    link = board()
    monkeypatch.setattr(ssh, "LOOK_S", 0.1)
    with link.held(print):
        lock = tmp_path / "there" / "lock.json"
        code = f"import time; open({str(lock)!r}, 'w').write('{{}}'); time.sleep(600)"
        with pytest.raises(StageFailed, match="lock is another's"):
            link.run([sys.executable, "-c", code])


def test_after_a_restart_in_mid_run_it_says_so(board, monkeypatch):
    link = board()
    with pytest.raises(StageFailed, match="started again in mid-run"):
        with link.held(print):
            link._held["boot"] = "of before"
            link._require_answer(255, "client_loop: send disconnect: Broken pipe")


def test_no_process_and_no_socket_stays(sshd, tmp_path):
    from edgekd.transport.ssh import Link

    link = Link(sshd.host, sys.executable, str(tmp_path), sshd.options)
    link.facts()
    sockets = link._client._sockets
    assert sockets.stat().st_mode & 0o077 == 0 and any(sockets.iterdir())
    link._client.close()
    assert not sockets.exists()


def test_a_nul_is_refused_before_a_shell_sees_it():
    with pytest.raises(UsageError):
        openssh.quoted(["echo", "a\0b"])
    assert shlex.split(openssh.quoted(HOSTILE)) == list(HOSTILE)


def test_interrupting_leaves_nothing_running(sshd, tmp_path):
    """Ctrl-C here ends the command there."""
    mark = tmp_path / "pid"
    inner = f"import os, time; open({str(mark)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    code = (
        "import signal, sys\nfrom edgekd.transport.ssh import Link\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored in a job of a shell's background
        f"Link({sshd.host!r}, sys.executable, {str(tmp_path / 'there')!r}, {sshd.options!r})"
        f".run([sys.executable, '-c', {inner!r}])\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    until(lambda: mark.exists() and mark.read_text(), "it started")
    child.send_signal(signal.SIGINT)
    child.wait(LIMIT)
    until(lambda: not Path(f"/proc/{mark.read_text()}").exists(), "the command ended")
