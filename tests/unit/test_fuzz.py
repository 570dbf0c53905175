"""Mutated recipes, overrides, manifests, run records and tags, through the command line: a clear error or success, never a bug.

Each case goes through `cli.main`, in this process: exit 1 or an exception would be a bug; nothing beside the workspace changes.
"""

import contextlib
import copy
import io
import json
import os
import shutil
import signal
import sys
from collections import Counter
from pathlib import Path

import pytest
import typer
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekd import cli
from edgekd.artifact import manifest_seal
from edgekd.commands.find_recipe import shipped_recipes
from edgekd.store import Store

EXAMPLES = 170  # of each of the three kinds
TRIED: Counter[str] = Counter()
SURVIVED: Counter[str] = Counter()
CLEAR = {0, 2, 3, 5, 6}  # 7 would be a machine that refuses, 1 a bug
SCREEN = 30  # lines

fuzzed = settings(
    max_examples=EXAMPLES,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)

NASTY = [
    *(
        "",
        " ",
        "../../out",
        "/etc/passwd",
        "a/../../b",
        "~",
        "~root",
        ".",
        "..",
        "x" * 5000,
        "9" * 5000,
        "1e999",
        ".nan",
    ),
    *(
        "\x00",
        "a\x1b[2Jb",
        "\ud800",
        "\u202egnp.exe",
        "<script>alert(1)</script>",
        "{{7*7}}",
        "${HOME}",
        "$(touch out)",
    ),
    *(
        "!!python/object/apply:os.system ['touch out']",
        "&a",
        "*a",
        "<<",
        "[[",
        "null",
        "true",
        "0x_",
        "1:60:99",
        "%",
        "\\",
    ),
    *(
        None,
        True,
        False,
        0,
        -1,
        2**63,
        -(2**70),
        10**400,
        1e308,
        float("inf"),
        float("nan"),
        [],
        {},
        [[]],
        {"": ""},
        {"use": {}},
    ),
]
values = st.one_of(
    st.sampled_from(NASTY),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.recursive(
        st.sampled_from(NASTY),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=8,
    ),
)


@st.composite
def mutated(draw, tree):
    """A copy of nested JSON with a few places changed, removed, added, renamed or buried."""
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(tree))
        if not places:
            break
        box, key = draw(st.sampled_from(places))
        kind = draw(st.sampled_from(["change", "change", "change", "remove", "add", "rename", "bury"]))
        if kind == "change":
            box[key] = draw(values)
        elif kind == "remove":
            del box[key]
        elif kind == "bury":
            for _ in range(draw(st.sampled_from([1, 5, 100, 500]))):
                box[key] = draw(st.sampled_from([[box[key]], {"a": box[key]}])) if draw(st.booleans()) else [box[key]]
        elif isinstance(box, dict):
            name = draw(st.one_of(st.text(max_size=8), st.sampled_from([n for n in NASTY if isinstance(n, str)])))
            box[name] = box.pop(key) if kind == "rename" else draw(values)
        else:
            box.append(draw(values))
    return tree


def _places(tree):
    for key, item in list(tree.items() if isinstance(tree, dict) else enumerate(tree)):
        yield tree, key
        if isinstance(item, dict | list):
            yield from _places(item)


@st.composite
def edited(draw, text):
    """Text with a few pieces put in, taken out or doubled."""
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 12)))
        new = draw(
            st.one_of(st.just(""), st.sampled_from([n for n in NASTY if isinstance(n, str)]), st.text(max_size=6))
        )
        text = text[:start] + (text[start:end] * 2 if new == " " else new) + text[end:]
    return text


RECIPES = {name: path.read_text(encoding="utf-8") for name, path in shipped_recipes().items()}
TREES = [yaml.safe_load(text) for text in RECIPES.values()]
recipe_files = st.one_of(
    st.sampled_from(TREES).flatmap(mutated).map(lambda tree: json.dumps(tree).encode()),
    st.sampled_from(TREES).flatmap(mutated).map(lambda tree: _dump(tree)),
    st.sampled_from(sorted(RECIPES.values())).flatmap(edited).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.binary(max_size=200),
)  # fmt: skip


def _dump(tree):
    try:
        return yaml.safe_dump(tree, allow_unicode=True).encode("utf-8", "surrogatepass")
    except RecursionError:  # buried deeper than this writer goes
        return json.dumps(tree).encode()


KEYS = sorted({f"{a}.{b}" for tree in TREES for a in tree if isinstance(tree[a], dict) for b in tree[a]})
names = st.one_of(
    st.sampled_from(
        [
            *KEYS,
            "name",
            "seed",
            "export",
            "distill.use",
            "data.use",
            "a.b.c.d",
            "student.fit.epochs",
            ".".join("a" * 5000),
        ]
    ),
    st.lists(st.text(max_size=5), max_size=4).map(".".join),
)
RIGHT = [
    "seed=3",
    "student.fit.epochs=1",
    "export=[onnx]",
    "bench.threads=2",
    "distill.use=kd",
    "data.train=100",
    "name=a",
]
overrides = st.one_of(
    st.sampled_from(RIGHT),
    st.tuples(names, values).map(lambda pair: f"{pair[0]}={pair[1]}"),
    st.tuples(names, values).map(lambda pair: f"{pair[0]}={json.dumps(pair[1])}"),
    st.text(max_size=40),
).map(lambda text: text.replace("\x00", "")[:20_000])  # no command line can hold a NUL, or much more


class Place:
    """A folder to act in, with a canary beside it."""

    def __init__(self, root):
        self.root, self.home = root, root / "deep" / "home"
        self.home.parent.mkdir()
        (root / "canary").write_text("untouched")
        self.before = self._seen()

    def clear(self):
        """An empty folder to act in; gives it."""
        shutil.rmtree(self.home, ignore_errors=True)
        self.home.mkdir()
        return self.home

    def _seen(self):
        found = []
        for top, folders, files in os.walk(self.root):
            folders[:] = [name for name in folders if Path(top) / name != self.home]
            found += [(top, name, (Path(top) / name).stat().st_mtime_ns) for name in files]
        return sorted(found)

    def act(self, *argv):
        """Run one command; gives its exit code and what it said."""
        said = io.StringIO()
        before = sys.argv, Path.cwd(), signal.getsignal(signal.SIGTERM)
        code = 0
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            sys.argv = ["edgekd", *argv]
            os.chdir(self.home)
            try:
                cli.main()
            except SystemExit as stop:
                code = stop.code or 0
            finally:
                sys.argv, _, handler = before
                os.chdir(before[1])
                signal.signal(signal.SIGTERM, handler)
        text = said.getvalue()
        text.encode("utf-8")  # else a real terminal would refuse it
        assert code in CLEAR, (argv, code, text[-2000:])
        assert code == 0 or len(text.splitlines()) <= SCREEN, text
        assert not any(c < " " and c not in "\n\t" for c in text), text
        assert self._seen() == self.before
        return code


def count(kind, code):
    """One case that did not end the test."""
    TRIED[kind] += 1
    SURVIVED[kind] += 1
    SURVIVED[f"{kind}: {'accepted' if code == 0 else 'refused'}"] += 1


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


@fuzzed
@given(content=recipe_files, command=st.sampled_from([("validate",), ("show",), ("show", "--json")]))
def test_a_mutated_recipe_is_refused_or_right(place, content, command):
    (place.clear() / "r.yaml").write_bytes(content)
    count("recipe", place.act("recipes", *command, "r.yaml"))


@fuzzed
@given(recipe=st.sampled_from(sorted(RECIPES)), texts=st.lists(overrides, min_size=1, max_size=2))
def test_a_mutated_override_is_refused_or_right(place, recipe, texts):
    place.clear()
    count("override", place.act("recipes", "validate", recipe, *(part for text in texts for part in ("--set", text))))


STEPS = ("data", "teacher", "student", "graph", "export/onnx", "bench/onnx@cpu")


def make_workspace(home):
    """Artifacts, a tag, a run record and HEAD as a finished run leaves them, but small and fast to make."""
    store, made = Store(home / "workspace"), {}
    recipe = {**yaml.safe_load(RECIPES["quickstart"])}
    for n, step in enumerate(STEPS):
        key = f"{n}a" * 32
        scratch = store.begin(step, key)
        (scratch.out / "model.json").write_text(json.dumps({"classes": ["a", "b"], "model": "resnet8"}))
        inputs = {
            a.step.partition("/")[0]: {"id": a.id, "step": a.step, "key": a.key, "digest": a.digest}
            for a in made.values()
        }
        facts = {
            "stage": step.partition("/")[0], "version": 1, "params": {"model": "resnet8", "roles": {"val": 0, "train": 100}},
            "inputs": inputs, "metrics": {"top1_percent": 97.5, "n_test": 359, "file_bytes": 1000, "reasons": ["a"]},
            "test_touches": 1, "recipe": recipe, "seed": 0, "threads": 1, "duration_s": 1.5,
            "sealed_at": "2030-01-01T00:00:00+00:00", "versions": {"python": "3.11"}, "source": {"sha256": "ab"},
            "host": {"system": "Linux", "name": "x"},
        }  # fmt: skip
        made[step] = store.seal(scratch, step, key, ("model.json",), facts)
    store.tag("prod", made["graph"])
    steps = [[step, artifact.id] for step, artifact in made.items()]
    record = {"name": "quickstart", "recipe": recipe, "recipe_dir": str(home), "steps": steps}
    (home / "workspace" / "runs").mkdir()
    (home / "workspace" / "runs" / "quickstart.json").write_text(json.dumps(record))
    (home / "workspace" / "HEAD").write_text("quickstart")
    return {artifact.step: artifact.manifest for artifact in made.values()}


COMMANDS = [
    *(("artifacts", "ls"), ("artifacts", "ls", "--json"), ("artifacts", "verify"), ("artifacts", "show", "latest")),
    *(("artifacts", "show", "student"), ("artifacts", "show", "prod", "--json"), ("artifacts", "tag", "x", "student")),
    *(("artifacts", "gc"), ("artifacts", "gc", "--yes", "--unfinished"), ("eval",), ("eval", "teacher", "--json")),
    *(("distill", "--from", "teacher", "--dry-run"), ("predict", ".")),
]
SLOW = [("run", "--dry-run"), ("report",)]  # half a second each: one case in twenty
references = st.sampled_from([n for n in NASTY if isinstance(n, str) and "\x00" not in n]) | st.text(
    st.characters(exclude_characters="\x00"), max_size=12
)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    home = tmp_path_factory.mktemp("fuzz")
    return home, make_workspace(home)


@fuzzed
@given(data=st.data())
def test_a_mutated_workspace_is_refused_or_right(place, workspace, data):
    shutil.copytree(workspace[0] / "workspace", place.clear() / "workspace")
    _spoil(place.home / "workspace", workspace[1], data.draw)
    commands = data.draw(st.lists(st.sampled_from(COMMANDS), min_size=2, max_size=3, unique=True))
    if data.draw(st.integers(0, 19)) == 7:
        commands.append(data.draw(st.sampled_from(SLOW)))
    codes = [place.act(*command) for command in commands]
    if data.draw(st.booleans()):
        place.act("artifacts", "show", "--", data.draw(references))
    count("workspace", max(codes))


def _spoil(root, manifests, draw):
    kind = draw(
        st.sampled_from(
            ["manifest", "manifest", "resealed", "resealed", "resealed", "run", "run", "head", "tag", "bytes"]
        )
    )
    step = draw(st.sampled_from(STEPS))
    path = next((root / "artifacts" / step).glob("*-*")) / "manifest.json"
    if kind in ("manifest", "resealed"):
        manifest = draw(mutated(dict(manifests[step])))
        if kind == "resealed":
            with contextlib.suppress(ValueError, RecursionError):  # what has no canonical form has no seal
                manifest["seal"] = manifest_seal(manifest)
        path.write_text(json.dumps(manifest))
    elif kind == "run":
        record = json.loads((root / "runs" / "quickstart.json").read_text())
        (root / "runs" / "quickstart.json").write_text(json.dumps(draw(mutated(record))))
    else:
        target = {"head": root / "HEAD", "tag": root / "artifacts" / ".tags" / "prod", "bytes": path}[kind]
        nasty = st.sampled_from([n for n in NASTY if isinstance(n, str)]) | edited(target.read_text()) | st.text()
        target.write_bytes(draw(nasty.map(lambda text: text.encode("utf-8", "surrogatepass")) | st.binary(max_size=80)))


def test_at_least_500_cases_were_tried(capsys):
    kinds = ("recipe", "override", "workspace")
    if not all(TRIED[kind] for kind in kinds):
        pytest.skip("needs the three tests above in the same process")
    with capsys.disabled():
        for kind in kinds:
            refused = SURVIVED[f"{kind}: refused"]
            typer.echo(
                f"\nfuzzed {kind}s: tried {TRIED[kind]}, survived {SURVIVED[kind]}, of those refused {refused}",
                nl=False,
            )
    for kind in kinds:
        assert SURVIVED[kind] == TRIED[kind] >= 150
        # the mutations are neither all fatal nor all idle
        assert SURVIVED[f"{kind}: accepted"] >= 5
        assert SURVIVED[f"{kind}: refused"] >= 50
    assert sum(TRIED[kind] for kind in kinds) >= 500
