"""The line that a command ends with can be typed as it stands: its options exist, and it acts on the same workspace."""

import shlex
from pathlib import Path

import pytest
import typer
from PIL import Image
from provenchain import call

from edgekd import cli
from edgekd.commands import chain, compare, students, tune
from edgekd.commands.chain import ChainOptions

PLACE = "a b/w"  # a workspace that must be quoted
ROOTS = ["/data one", "/data-two"]


def following(text):
    """The `next:` line, as words."""
    (line,) = [line.removeprefix("next: ") for line in text.splitlines() if line.startswith("next: ")]
    return shlex.split(line)


def parsed(words):
    """{name: value} of a command line of edgekd as typer reads it; it is not run.

    Raises:
        Misuse: It does not have that command or option.
    """
    assert words[0] == "edgekd"
    command, rest, values = typer.main.get_command(cli.app), words[1:], {}
    while True:
        context = command.make_context(command.name, list(rest), resilient_parsing=False)
        values |= context.params
        left = [*getattr(context, "_protected_args", getattr(context, "protected_args", [])), *context.args]
        if not hasattr(command, "commands") or not left:
            return values
        command, rest = command.commands[left[0]], left[1:]


@pytest.fixture
def elsewhere(home, tmp_path):
    """The proven chain in a workspace of a name with a space, and an image."""
    (home / "a b").mkdir()
    (home / "w").rename(home / PLACE)
    Image.new("L", (8, 8), 128).save(home / "an image.png")
    return home


@pytest.mark.parametrize(
    "argv",
    [
        ("ledger",),
        ("predict", "an image.png"),
        ("eval",),
        ("pareto",),
        ("doctor",),
        ("artifacts", "ls"),
        ("artifacts", "show", "student"),
        ("artifacts", "verify"),
        ("artifacts", "gc"),
        ("artifacts", "tag", "prod", "student"),
        ("lineage", "student"),
        ("explain", "student", "student"),
        ("run", "--recipe", "tiny.yaml"),
        ("export",),
        ("quantize",),
        ("distill",),
        ("train",),
        ("ledger", "--recipe", "tiny.yaml"),
    ],
    ids=" ".join,
)
def test_what_is_typed_next_acts_on_the_same_workspace(elsewhere, argv, monkeypatch):
    done = call(elsewhere, *argv, "--workspace", PLACE)
    assert done.code == 0, done.err
    words = following(done.out)
    assert words[words.index("--workspace") + 1] == PLACE
    assert parsed(words)["workspace"] == Path(PLACE)


def test_in_the_usual_workspace_nothing_is_added(elsewhere):
    (elsewhere / PLACE).rename(elsewhere / "workspace")
    assert "--workspace" not in following(call(elsewhere, "ledger").out)


@pytest.mark.parametrize("command", sorted(set(chain.NEXT) - {"export"}))
def test_the_data_folders_go_on_to_those_alone_that_take_them(command):
    """`eval` and `predict` have no --data-root."""
    roots = [Path(root) for root in ROOTS]
    options = ChainOptions(command, None, Path(PLACE), roots, None, None, False, False, None, None, False)
    group = type("Group", (), {"world": 1, "local_world": 1})()
    values = parsed(shlex.split(chain._following(options, [], group, [], [])))
    assert values["workspace"] == Path(PLACE)
    assert [str(root) for root in values.get("data_root") or []] == ([] if command in ("bench", "run") else ROOTS)


def test_after_a_comparison_or_a_search_the_same_recipe_is_taken(capsys, tmp_path):
    asked = students.Asked("my recipe.yaml", Path(PLACE), [Path(ROOTS[0])], ["data.val=100"], None)
    values = parsed(["edgekd", "distill", *shlex.split(asked.again(["distill.of=[{use: kd}]"]))])
    assert (values["recipe"], values["workspace"]) == ("my recipe.yaml", Path(PLACE))
    assert values["set_"] == ["data.val=100", "distill.of=[{use: kd}]"] and values["data_root"] == [Path(ROOTS[0])]
    assert students.Asked(None, Path("workspace"), None, None, None).again() == ""


def test_what_compare_and_tune_print_is_that_line(capsys, monkeypatch, tmp_path):
    asked = students.Asked("my recipe.yaml", Path(PLACE), None, None, None)
    monkeypatch.setattr(compare.words, "columns", lambda facts: ("method",))
    for name in ("verdicts", "notes"):
        monkeypatch.setattr(compare.words, name, lambda facts: [])
    options = compare.CompareOptions(asked, "kd", "1", None, None, None, False, None, False)
    compare._print({"methods": [], "name": "x"}, tmp_path, options)
    assert parsed(following(capsys.readouterr().out))["recipe"] == "my recipe.yaml"
    best = tune.Tried(0, ("distill.of=[{use: kd}]",), 50.0, "student/x")
    base = type("Base", (), {"teacher": None, "name": "x"})()
    tune._print(tune.TuneOptions(asked, [], 1, 0, None, False), base, [best], best, tmp_path)
    values = parsed(following(capsys.readouterr().out))
    assert values["set_"] == list(best.values) and values["workspace"] == Path(PLACE)


def test_names_of_files_are_quoted(elsewhere, capsys, monkeypatch):
    (elsewhere / "my recipe.yaml").write_bytes((elsewhere / "tiny.yaml").read_bytes())
    for argv in (("show", "my recipe.yaml", "--set", "seed=3"), ("validate", "my recipe.yaml", "--set", "seed=3")):
        values = parsed(following(call(elsewhere, "recipes", *argv).out))
        assert values["recipe"] == "my recipe.yaml" and values["set_"] == ["seed=3"] and values["dry_run"]
    values = parsed(following(call(elsewhere, "recipes", "cp", "quickstart", "another one.yaml").out))
    assert values["recipe"] == "another one.yaml"
    words = following(call(elsewhere, "report", "--workspace", PLACE).out)
    assert (elsewhere / words[-1]).is_file()


def test_errors_say_the_workspace_too(tmp_path):
    done = call(tmp_path, "ledger", "--workspace", PLACE)
    line = next(line for line in done.err.splitlines() if "try: " in line)
    assert done.code == 2 and parsed(shlex.split(line.partition("try: ")[2]))["workspace"] == Path(PLACE)
