"""Tools that stand beside edgekd: what is missing is named, and the engines find their Python."""

import sys
from importlib import util
from pathlib import Path

import pytest

from edgekd.errors import MissingTool
from edgekd.tools import beside, engines, place


@pytest.fixture
def without(monkeypatch):
    """No package of any extra or engine, and no tool environment."""
    real = util.find_spec
    hidden = {module for extra in beside.EXTRAS.values() for module, _ in extra.packages}
    hidden |= {module for _, packages in engines.ENGINES.values() for module in packages}
    monkeypatch.setattr(util, "find_spec", lambda name, *a: None if name in hidden else real(name, *a))


@pytest.mark.parametrize("name", beside.EXTRAS)
def test_a_missing_extra_says_what_to_type(name, without):
    with pytest.raises(MissingTool) as error:
        place.require(name, "export/x")
    assert error.value.hint == f"pip install 'edgekd[{name}]'" == place.repair(name)


@pytest.mark.parametrize("runtime", engines.ENGINES)
def test_an_engine_without_its_package_names_its_tool(runtime, without, monkeypatch, tmp_path):
    monkeypatch.setenv(place.VARIABLE, str(tmp_path))
    for ask in (engines.python, engines.version):
        with pytest.raises(MissingTool) as error:
            ask(runtime, "bench")
        assert engines.ENGINES[runtime][0] in error.value.hint


def test_an_engine_that_no_tool_brings_runs_in_this_python():
    assert engines.python("onnxruntime", "bench") == Path(sys.executable)
    assert engines.version("onnxruntime", "bench") is None
