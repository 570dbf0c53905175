"""`edgekd formats`: what each target needs, and whether it is usable here or why not."""

import json
import re
from importlib import util

import pytest

from edgekd import profiles, trtcheck
from edgekd.commands import listings
from edgekd.tools import beside


@pytest.fixture
def listed(monkeypatch, capsys):
    """`listed(missing packages, ...)` -> {target: row}."""

    def of(*missing, rtx=False):
        find = util.find_spec
        monkeypatch.setattr(listings.util, "find_spec", lambda name: None if name in missing else find(name))
        monkeypatch.setattr(trtcheck, "available", lambda: rtx)
        listings.formats(json=True)
        return {row["target"]: row for row in json.loads(capsys.readouterr().out)["formats"]}

    return of


@pytest.mark.parametrize("columns", [100, 120])
def test_the_sizes_of_one_target_are_one_row_that_is_readable(monkeypatch, capsys, columns):
    """On a terminal: it is as wide as it is."""
    from rich.console import Console

    monkeypatch.setattr(Console, "is_terminal", property(lambda self: True))
    monkeypatch.setenv("COLUMNS", str(columns))
    listings.formats(json=False)
    said = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    lines = said.splitlines()
    assert max(map(len, lines)) <= columns and lines[-1] == "next: edgekd export --format onnx-int8"
    for name in ("ethos-u55-{32,64,128,256}", "ethos-u65-{256,512}", "rknn-{rk3566,rk3576,rk3588}"):
        assert said.count(name) == 2, name
    for name in set(profiles.targets()) - {n for n in profiles.targets() if n.startswith(("ethos-u", "rknn-"))}:
        assert f"\n{name} " in said, name  # whole, on one line
    at = [i for i, line in enumerate(lines) if line.startswith("ethos-u")]
    assert at[1] - at[0] <= 2 and at[4] - at[3] <= 3  # lines of a row
    assert "with ... MACs a cycle" in " ".join(said.split())


def test_every_target_says_what_it_needs_and_whether_it_is_usable(listed):
    rows = listed()
    assert set(rows) == set(profiles.targets())
    for row in rows.values():
        told = ("yes", "no: edgekd tools install ", "no: pip install 'edgekd[") if "tool " in row["needs"] else ("yes",)
        assert row["needs"] and row["export here"].startswith(told)
        assert row["measure here"].startswith(("yes: ", "no: "))


def test_a_target_without_a_device_says_which_board_it_takes(listed):
    row = listed()["tensorrt-int8"]
    assert "device jetson or rtx" in row["needs"] and row["measure here"].startswith("no: no device here has tensorrt")
    assert listed()["onnx-int8"]["measure here"] == "yes: cpu"


@pytest.mark.parametrize("rtx", [True, False])
def test_whether_a_file_will_be_checked_is_said(listed, rtx):
    said = listed(rtx=rtx)["tensorrt-fp16"]["export here"]
    assert said == ("yes, checked by TensorRT-RTX" if rtx else f"yes, unchecked: {trtcheck.INSTALL}")


def test_what_is_missing_is_named_with_the_line_that_mends_it(listed):
    rows = listed("onnxruntime")
    assert rows["onnx-int8"]["export here"] == rows["onnx-int8"]["measure here"] == "no: pip install onnxruntime"
    assert rows["onnx"]["export here"] == "yes"


def test_an_engine_of_a_tool_is_mended_by_the_tool_and_no_package_of_its_name(listed, monkeypatch, tmp_path):
    monkeypatch.setenv("EDGEKD_TOOLS", str(tmp_path))
    monkeypatch.setattr(listings.packages, "_here", lambda runtime: None)
    monkeypatch.setattr(beside, "version", lambda module, package: None)
    rows = listed()
    assert rows["litert-int8"]["measure here"] == "no: edgekd tools install litert"
    assert rows["executorch-fp32"]["measure here"] == "no: edgekd tools install executorch"
    assert rows["openvino"]["measure here"] == "no: pip install 'edgekd[openvino]'"
    monkeypatch.setattr(listings.packages, "python", lambda runtime, where: tmp_path)
    assert listed()["litert-int8"]["measure here"].startswith("yes: cpu")


def test_a_runtime_that_was_never_seen_to_run_is_said_to_be_that(listed):
    rows = listed()
    unseen = {name for name, row in rows.items() if row["measure here"].endswith("; " + listings.UNSEEN)}
    assert {"tensorrt-int8", "tensorrt-fp16"} <= unseen and not {"onnx", "onnx-int8"} & unseen
