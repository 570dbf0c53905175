"""Plugins are read from their source, and no plugin is imported for a listing."""

import subprocess
import sys

import pytest

from edgekd import registry
from edgekd.errors import RecipeError


@pytest.mark.parametrize("group", sorted(registry.BASES))
def test_every_group_has_plugins_whose_schema_can_be_built(group):
    found = registry.plugins(group)
    assert found
    for plugin in found.values():
        assert plugin.summary
        assert registry.schema(plugin)["type"] == "object"


@pytest.mark.parametrize("group", sorted(registry.BASES))
def test_the_source_says_what_the_class_says(group):
    for plugin in registry.plugins(group).values():
        kind = registry.load(group, plugin.name)
        assert kind.__name__ == plugin.class_name
        assert plugin.version == kind.VERSION


def test_defaults_and_ranges_are_checked_without_importing():
    assert registry.check("distillers", "rtk", {"beta": 50}, "distill") == {"beta": 50}
    for args, says in (
        ({"beta": -1}, "distill.beta"),
        ({"beta": "x"}, "distill.beta"),
        ({"bet": 1}, "beta"),
        ({"select": "x"}, "topk"),
    ):
        with pytest.raises(RecipeError) as caught:
            registry.check("distillers", "rtk", args, "distill")
        assert says in str(caught.value)


def test_an_unknown_plugin_names_the_nearest():
    with pytest.raises(RecipeError, match="rtk"):
        registry.find("distillers", "rtkk")


def test_every_stage_says_its_version():
    for stage in ("data", "train", "distill", "graph", "quantize", "export", "bench"):
        assert registry.stage_version(stage) >= 1


LIGHT = [
    ["--help"], ["--version"], ["recipes", "ls"], ["recipes", "show", "quickstart"], ["recipes", "validate", "quickstart"],
    ["recipes", "schema"], ["formats"], ["devices"], ["models"], ["distillers"], ["artifacts", "ls"],
    ["compare", "--help"], ["tune", "--help"],
]  # fmt: skip
PROBE = """
import sys
from edgekd.cli import app
try:
    app({argv!r})
except SystemExit as stop:
    assert not stop.code, stop.code
heavy = [name for name in ("torch", "torchvision", "onnxsim", "onnxruntime", "sklearn", "matplotlib") if name in sys.modules]
assert not heavy, heavy
"""


@pytest.mark.parametrize("argv", LIGHT, ids=" ".join)
def test_lists_and_help_never_import_torch(argv, tmp_path):
    done = subprocess.run([sys.executable, "-c", PROBE.format(argv=argv)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
