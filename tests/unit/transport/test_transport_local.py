"""The local transport: exit codes are answers, deaths and absences are errors."""

import sys

import pytest

from edgekd import registry
from edgekd.errors import MissingTool, RecipeError, StageFailed
from edgekd.transport.base import Completed, Transport


@pytest.fixture
def link():
    return registry.construct("transport", "local", {})


def test_it_is_a_transport_with_this_python(link):
    assert isinstance(link, Transport)
    assert link.python == sys.executable
    assert link.shares_files


def test_any_exit_code_is_an_answer(link):
    code = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(5)"
    assert link.run([link.python, "-c", code]) == Completed(5, "out\n", "err\n")


def test_bytes_that_are_no_text_do_not_stop_it(link):
    done = link.run([link.python, "-c", "import os; os.write(2, bytes([255, 10]))"])
    assert done.stderr == "\ufffd\n"


@pytest.mark.parametrize(("signal", "words"), [(9, "SIGKILL (out of memory?)"), (11, "SIGSEGV (see the system log)")])
def test_a_killed_worker_is_exit_7(link, signal, words):
    with pytest.raises(StageFailed) as caught:
        link.run([link.python, "-c", f"import os; os.kill(os.getpid(), {signal})"])
    assert words in str(caught.value)
    assert caught.value.exit_code == 7


def test_a_worker_killed_under_a_shell_is_exit_7(link):
    with pytest.raises(StageFailed, match="SIGKILL"):
        link.run(["sh", "-c", "sh -c 'kill -9 $$'; exit $?"])


def test_a_program_that_is_not_there_is_exit_5(link):
    with pytest.raises(MissingTool, match="no such program"):
        link.run(["/nowhere/python3"])


def test_a_program_that_cannot_start_is_exit_7(link, tmp_path):
    with pytest.raises(StageFailed):
        link.run([str(tmp_path)])


def test_push_and_pull(link, tmp_path):
    there, here = tmp_path / "there", tmp_path / "here"
    there.mkdir()
    here.mkdir()
    (there / "result.json").write_text("{}")
    assert link.push(there) == str(there)
    link.pull(str(there), here)
    assert (here / "result.json").read_text() == "{}"
    link.pull(str(here), here)
    assert (here / "result.json").read_text() == "{}"


def test_pulling_what_is_not_there_is_exit_7(link, tmp_path):
    with pytest.raises(StageFailed):
        link.pull(str(tmp_path / "nothing"), tmp_path)


def test_an_unknown_transport_is_refused():
    with pytest.raises(RecipeError, match="unknown name 'pigeon'"):
        registry.load("transport", "pigeon")
