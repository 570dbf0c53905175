"""Tool environments, whole and broken on purpose. The environments are stand-ins: a link to this Python, and metadata of packages
that are not there; `tests/unit/tools/test_real_tools.py` has the real ones."""

import io
import json
import sys
from pathlib import Path

import pytest
import yaml

from edgekd import locks, profiles, registry
from edgekd.commands import tools as commands
from edgekd.console import Console
from edgekd.errors import EdgekdError, IntegrityError, MissingTool, RecipeError, StageFailed, UsageError
from edgekd.runner import failure
from edgekd.tools import beside, bootstrap, catalogue, engines, env, install, place
from edgekd.tools.env import run_worker

QUIET = Console(quiet=True)
FACTS = {
    "name": "demo",
    "description": "a stand-in",
    "licence": "none",
    "source": "made up",
    "python": [catalogue.python()],
    "platforms": [catalogue.here()],
    "imports": ["json"],
    "download_mib": 1,
    "installed_mib": 1,
}
HASH = " --hash=sha256:" + "0" * 64


@pytest.fixture
def demo(tmp_path, monkeypatch):
    """`demo(**facts)`: the one tool `demo` with a whole stand-in environment; gives its folder."""
    pins, root, workers = (tmp_path / name for name in ("pins", "tools", "workers"))
    for folder in (pins, root, workers):
        folder.mkdir()
    monkeypatch.setattr(catalogue, "PINS", pins)
    monkeypatch.setattr(env, "WORKERS", workers)
    monkeypatch.setenv(place.VARIABLE, str(root))

    def make(**facts):
        (pins / "demo.yaml").write_text(yaml.safe_dump(FACTS | facts))
        (pins / "demo.txt").write_text(f"alpha==1.0{HASH}\nbeta-two==2.5{HASH}\n")
        folder = root / "demo"
        (folder / "bin").mkdir(parents=True)
        (folder / "bin" / "python").symlink_to(sys.executable)
        for package in ("alpha-1.0", "beta_two-2.5"):
            (place.site(folder) / f"{package}.dist-info").mkdir(parents=True)
        marker = {
            "schema": place.SCHEMA,
            "python": catalogue.python(),
            "pins_sha256": catalogue.find("demo").pins_sha256,
        }
        (folder / place.MARKER).write_text(json.dumps({**marker, "freeze": {}, "bytes": 1}))
        return folder

    return make


def work(folder, body, **more):
    """Let a worker with this `main` do a job."""
    (env.WORKERS / "demo.py").write_text(f"import os, sys, time\ndef main(job):\n    {body}\n")
    out = folder.parent / "out"
    out.mkdir(exist_ok=True)
    return run_worker("demo", {"a": 1, "path": Path("x")}, out, where="export/demo", console=QUIET, **more)


def test_a_worker_gets_its_job_and_gives_its_answer(demo):
    folder = demo()
    answer = work(folder, "print('hello'); return {'twice': 2 * job['a'], 'path': job['path']}")
    assert answer == {"twice": 2, "path": str(Path("x").resolve())}
    out = folder.parent / "out"
    assert [path.name for path in out.iterdir()] == ["demo.log"]  # no scratch file stays
    assert (out / "demo.log").read_text() == "hello\n"


def test_a_worker_sees_little_of_the_callers_environment(demo, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    monkeypatch.setenv("A_TOKEN", "secret")
    said = work(demo(), "return {'env': sorted(os.environ), 'threads': os.environ['OMP_NUM_THREADS']}", threads=3)
    assert said["threads"] == "3" and not {"PYTHONPATH", "A_TOKEN"} & set(said["env"])


def test_progress_is_shown_and_the_rest_is_in_the_log_alone(demo, capsys):
    (folder := demo())
    (env.WORKERS / "demo.py").write_text("def main(job):\n    print('> half')\n    print('chatter')\n    return {}\n")
    run_worker("demo", {}, folder.parent, where="x", console=Console())
    assert capsys.readouterr().err == "half\n"


BREAKS = {
    "a missing package": (
        lambda f: (place.site(f) / "alpha-1.0.dist-info").rmdir(),
        "package alpha is missing",
        "alpha 1.0",
    ),
    "another version": (
        lambda f: (place.site(f) / "beta_two-2.5.dist-info").rename(place.site(f) / "beta_two-2.6.dist-info"),
        "package beta-two 2.6",
        "beta-two 2.5",
    ),
    "other pins": (
        lambda f: (catalogue.PINS / "demo.txt").write_text(f"alpha==1.0{HASH}\n"),
        "made from other pins",
        "pins ",
    ),
    "a marker that is none": (lambda f: (f / place.MARKER).write_text("{"), "not what was written", "schema 1"),
    "half a marker": (lambda f: (f / place.MARKER).write_text('{"schema": 1}'), "not what was written", "schema 1"),
    "no Python": (lambda f: (f / "bin" / "python").unlink(), "its Python is", f"Python {catalogue.python()}"),
}


@pytest.mark.parametrize("what", BREAKS)
def test_a_broken_environment_is_named_before_any_work(demo, what):
    folder = demo()
    breaks, found, expected = BREAKS[what]
    breaks(folder)
    with pytest.raises(MissingTool) as error:
        work(folder, "return {}")
    assert error.value.exit_code == 5 and error.value.hint == "edgekd tools install demo --force"
    assert found in error.value.found and expected in error.value.expected
    assert not (folder.parent / "out" / "demo.log").exists()


def test_what_is_not_installed_or_half_installed_says_what_to_type(demo):
    folder = demo()
    (folder / place.MARKER).unlink()
    with pytest.raises(MissingTool, match="not installed whole") as error:
        place.require("demo", "export/demo")
    assert error.value.hint == "edgekd tools install demo"
    with pytest.raises(MissingTool, match="half installed"):
        commands.doctor(None, json=False)


def test_a_package_that_does_not_load_is_a_broken_environment(demo):
    with pytest.raises(MissingTool) as error:
        work(demo(), "import alpha")
    assert "No module named 'alpha'" in error.value.found and "alpha" in error.value.expected
    assert error.value.exit_code == 5 and error.value.hint.endswith("--force")


@pytest.mark.parametrize("engine", ["litert", "executorch"])
def test_an_engine_whose_package_is_gone_is_a_broken_environment_too(monkeypatch, tmp_path, engine):
    for name in ("ai_edge_litert", "tflite_runtime", "tensorflow", "executorch", "executorch.runtime"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, f"edgekd.runner.runtimes.{engine}", raising=False)
    monkeypatch.setattr(sys, "path", [*sys.path])
    job = tmp_path / "job.json"
    job.write_text(json.dumps({"runner": str(tmp_path), "engine": engine}))
    assert bootstrap.run(str(env.WORKERS / "answer.py"), str(job), str(tmp_path / "result.json")) == bootstrap.BROKEN


DEATHS = {
    "killed": ("os.kill(os.getpid(), 9)", "signal 9"),
    "disk full": ("open('/dev/full', 'w').write('x' * 100000)", "No space left on device"),
    "out of memory": ("raise MemoryError", "out of memory"),
    "a bug": ("print('last words'); raise ValueError('odd shape')", "ValueError: odd shape"),
    "no answer": ("os._exit(0)", "left no answer"),
    "another answer": ("return [1]", "left no answer but [1]"),
    "a broken last word": ("print('edgekd-worker: {'); os._exit(66)", "worker demo"),
    "another last word": ("print('edgekd-worker: [1]'); os._exit(67)", "worker demo"),
    "a code without its word": ("os._exit(68)", "exit code 68"),
    "a reason that is none": ("""print('edgekd-worker: {"reason": "interrupted"}'); os._exit(68)""", "exit code 68"),
}


@pytest.mark.parametrize("how", DEATHS)
def test_a_worker_that_dies_is_a_failed_stage(demo, how):
    if how == "disk full" and not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    body, said = DEATHS[how]
    with pytest.raises(StageFailed) as error:
        work(demo(), body)
    assert error.value.exit_code == 7 and said in str(error.value)


@pytest.mark.parametrize("code", sorted(set(failure.REASONS) - {failure.INTERRUPTED}))
def test_what_the_runner_in_a_worker_says_keeps_its_own_exit_code(demo, code):
    """The worker loads the runner by its path, as the shipped ones do; its Python has no edgekd of its own to find."""
    root = str(Path(failure.__file__).parents[2])
    loads = f"sys.path.insert(0, {root!r}); from edgekd.runner.failure import RunnerError"
    with pytest.raises(EdgekdError) as caught:
        work(demo(), f"{loads}; raise RunnerError({code}, 'provider', 'NPU', 'cpu', 'mend it')")
    error = caught.value
    assert (error.exit_code, error.reason) == (code, failure.REASONS[code])
    assert (error.where, error.found, error.expected, error.hint) == ("export/demo: provider", "NPU", "cpu", "mend it")


@pytest.mark.parametrize(("provider", "code"), [("NPU", 4), ("cpu", 7)])
def test_an_engine_that_cannot_take_a_file_says_so_with_its_exit_code(monkeypatch, tmp_path, capsys, provider, code):
    """Another provider is void, a file that is none a failed stage."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "model.pt2").write_bytes(b"no program")
    job = {"runner": str(Path(failure.__file__).parents[2]), "engine": "torch", "provider": provider, "threads": 1}
    (tmp_path / "job.json").write_text(json.dumps(job | {"model": str(tmp_path / "model.pt2")}))
    worker, result = str(env.WORKERS / "answer.py"), str(tmp_path / "result.json")
    assert bootstrap.run(worker, str(tmp_path / "job.json"), result) == bootstrap.TOLD
    said = json.loads(capsys.readouterr().out.splitlines()[-1].removeprefix(bootstrap.SAYS))
    assert said["exit_code"] == code and not Path(result).exists()


def test_a_worker_that_takes_too_long_is_ended_with_what_it_started(demo, tmp_path):
    body = "import subprocess; subprocess.Popen(['sleep', '60']); time.sleep(60)"
    with pytest.raises(StageFailed, match=r"took more than 0\.5 s"):
        work(demo(), body, limit_s=0.5)  # its pipe is open as long as what it started lives: this would wait


def test_the_exit_codes_of_a_worker_are_pythons_own_of_nothing(demo):
    assert {bootstrap.BROKEN, bootstrap.DISK, bootstrap.MEMORY, bootstrap.TOLD}.isdisjoint({0, 1, 2})


@pytest.mark.parametrize(("fact", "value"), [("python", ["2.7"]), ("platforms", ["plan9-mips"])])
def test_what_is_not_pinned_for_this_machine_is_refused_before_anything_is_fetched(demo, monkeypatch, fact, value):
    demo(**{fact: value})
    monkeypatch.setattr(install, "_call", lambda *a, **k: pytest.fail("something was run"))
    with pytest.raises(MissingTool) as error:
        install.install(catalogue.find("demo"), QUIET)
    assert error.value.exit_code == 5 and value[0] in error.value.expected


def test_nobody_to_agree_installs_nothing(demo, monkeypatch, capsys):
    folder = demo()
    (folder / place.MARKER).unlink()
    monkeypatch.setattr("sys.stdin", io.StringIO())
    monkeypatch.setattr(install, "_call", lambda *a, **k: pytest.fail("something was run"))
    with pytest.raises(UsageError, match="nobody is there to agree"):
        commands.install("demo", yes=False, force=False, json=False)
    assert "takes 1 MiB" in capsys.readouterr().err  # its size was said first


def test_too_little_disk_is_said_before_anything_is_fetched(demo, monkeypatch):
    folder = demo(installed_mib=10**9)
    (folder / place.MARKER).unlink()
    with pytest.raises(StageFailed, match="are free") as error:
        install.install(catalogue.find("demo"), QUIET)
    assert error.value.exit_code == 7


def stand_in(monkeypatch, said, code):
    """pip says this and ends so; making the environment takes no time."""

    def call(line, write, tool, task=None, variables=None):
        if "venv" in line:
            (Path(line[-1]) / "bin").mkdir(parents=True)
        if "pip" in line and code:
            raise install._failure(tool, said, code)
        if "pip" in line:
            for package in ("alpha-1.0", "beta_two-2.5"):
                (place.site(Path(line[0]).parents[1]) / f"{package}.dist-info").mkdir(parents=True)

    monkeypatch.setattr(install, "_call", call)


ENDS = [
    (["ERROR: THESE PACKAGES DO NOT MATCH THE HASHES"], IntegrityError, 6),
    (["ERROR: [Errno 28] No space left on device"], StageFailed, 7),
    (["ERROR: No matching distribution found for alpha==1.0"], MissingTool, 5),
]


@pytest.mark.parametrize(("said", "kind", "code"), ENDS)
def test_an_install_that_fails_leaves_the_old_environment(demo, monkeypatch, said, kind, code):
    folder = demo()
    stand_in(monkeypatch, said, 1)
    with pytest.raises(kind) as error:
        install.install(catalogue.find("demo"), QUIET, force=True)
    assert error.value.exit_code == code
    assert place.require("demo", "x").path == folder
    assert sorted(path.name for path in folder.parent.iterdir() if path.is_dir()) == ["demo"]


def test_an_install_is_whole_and_is_not_made_twice(demo, monkeypatch):
    folder = demo()
    (folder / place.MARKER).unlink()  # half an install is replaced
    stand_in(monkeypatch, [], 0)
    path = install.install(catalogue.find("demo"), QUIET)
    marker = place.read_marker(path)
    assert marker["freeze"] == {"alpha": "1.0", "beta-two": "2.5"} and marker["torch"] is None
    monkeypatch.setattr(install, "_call", lambda *a, **k: pytest.fail("it was made again"))
    (path / "bin" / "python").symlink_to(sys.executable)
    assert install.install(catalogue.find("demo"), QUIET) == path
    assert install.remove(catalogue.find("demo")) > 0 and not path.exists()


def test_remove_deletes_a_link_and_nothing_behind_it(demo, tmp_path):
    there, real = demo(), tmp_path / "elsewhere"
    there.rename(real)
    there.symlink_to(real)
    half, kept = there.with_name(".demo.new"), there.with_name(".demo.newest")
    half.symlink_to(real)
    kept.mkdir()
    assert install.remove(catalogue.find("demo")) > 0
    assert (real / place.MARKER).is_file() and kept.is_dir()
    assert not there.is_symlink() and not half.is_symlink()
    assert install.remove(catalogue.find("demo")) == 0


def test_an_install_replaces_a_link_and_nothing_behind_it(demo, monkeypatch, tmp_path):
    there, real = demo(), tmp_path / "elsewhere"
    there.rename(real)
    for target in (real, tmp_path / "nowhere"):
        there.unlink(missing_ok=True)
        there.symlink_to(target)
        there.with_name(".demo.old").symlink_to(real)
        stand_in(monkeypatch, [], 0)
        assert install.install(catalogue.find("demo"), QUIET, force=True) == there
        assert not there.is_symlink() and (real / place.MARKER).is_file()
        install.remove(catalogue.find("demo"))


@pytest.mark.parametrize("work", [install.remove, lambda tool: install.install(tool, QUIET, force=True)])
def test_a_folder_of_somebody_elses_is_neither_removed_nor_replaced(demo, monkeypatch, work):
    folder = demo()
    (folder / place.MARKER).unlink()
    (folder / "bin" / "python").unlink()
    monkeypatch.setattr(install, "_call", lambda *a, **k: pytest.fail("something was run"))
    with pytest.raises(UsageError, match="no environment that edgekd made"):
        work(catalogue.find("demo"))
    assert place.site(folder).is_dir()


def test_what_is_being_installed_is_not_removed(demo):
    folder = demo()
    with locks.held(folder.parent, folder.parent / ".demo.lock"), pytest.raises(StageFailed, match="another process"):
        install.remove(catalogue.find("demo"))
    assert (folder / place.MARKER).is_file()


def test_a_folder_of_a_modules_name_is_no_package(monkeypatch, tmp_path):
    (tmp_path / "ai_edge_litert").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv(place.VARIABLE, str(tmp_path / "tools"))
    monkeypatch.setattr(beside.metadata, "version", missing)
    with pytest.raises(MissingTool, match="litert is not installed") as error:
        engines.version("litert", "x")
    assert error.value.hint == "edgekd tools install litert"


def missing(package):
    raise beside.metadata.PackageNotFoundError(package)


@pytest.mark.parametrize("name", beside.EXTRAS)
def test_an_extra_is_no_environment_and_says_what_to_type(name):
    with pytest.raises(RecipeError, match="is an extra of edgekd") as error:
        catalogue.find(name)
    assert error.value.hint == f"pip install 'edgekd[{name}]'"


def test_the_hosts_torch_is_taken_inside_the_range_alone():
    torch = catalogue.Torch(least="2.14", below="2.16", own="2.14.1", own_mib=5000)
    took = {version: torch.takes(version) for version in ("2.13.1", "2.14.0", "2.15.0+cu132", "2.16.0", "3.0")}
    assert took == {"2.13.1": False, "2.14.0": True, "2.15.0+cu132": True, "2.16.0": False, "3.0": False}


# ---- what is shipped -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", catalogue.tools())
def test_every_shipped_pin_is_exact_and_hashed(name):
    tool = catalogue.find(name)
    lines = [line for line in tool.requirements.read_text().splitlines() if not line.startswith("#")]
    assert len(lines) == len(tool.pins()) > 0
    assert all(" --hash=sha256:" in line for line in lines)
    assert tool.name == name and not set(tool.pins()) & {"torch", "triton"}


@pytest.mark.parametrize("target", [t for t in profiles.targets().values() if t.tool], ids=lambda t: t.name)
def test_every_tool_of_a_target_is_known_and_checked_before_work(target):
    needs = registry.find("exporters", target.exporter).attributes["needs"]
    assert target.tool in needs and target.kind is not None
    assert set(needs) <= {*catalogue.tools(), *beside.EXTRAS}
    assert all((env.WORKERS / f"{name.replace('-', '_')}.py").is_file() for name in needs)


def test_an_unknown_tool_names_the_nearest():
    with pytest.raises(RecipeError, match="litert"):
        catalogue.find("litert2")
