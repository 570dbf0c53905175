"""What `edgekd doctor` says of the processor's int8, from the text of /proc/cpuinfo, and of the optional check of TensorRT."""

import pytest

from edgekd import trtcheck
from edgekd.commands import doctor

FLAGS = "processor\t: 0\nmodel name\t: avx_vnni in a name counts for nothing\nflags\t\t: fpu sse2 avx2 {}\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd evtstrm {}\nCPU implementer\t: 0x41\n"


@pytest.mark.parametrize(
    ("text", "state", "found"),
    [
        (FLAGS.format("avx512f avx512_vnni"), "ok", "VNNI"),
        (FLAGS.format("avx_vnni"), "ok", "VNNI"),
        (FLAGS.format("avx512f avx512bw"), "warn", "may saturate"),
        (FLAGS.format(""), "warn", "no VNNI"),
        (ARM.format("asimddp"), "ok", "dot product"),
        (ARM.format(""), "ok", "no dot product"),
        ("", "ok", "unknown"),
        ("processor: 0\nhart: 0\nisa: rv64imafdc\n", "ok", "unknown"),
    ],
)
def test_int8_instructions(text, state, found):
    said = doctor.int8_instructions(text)
    assert said.what == "int8 instructions" and said.state == state and found in said.found


@pytest.mark.parametrize("text", [FLAGS.format(""), ""], ids=["no VNNI", "unknown"])
def test_what_may_saturate_is_to_be_measured_here(text):
    assert "edgekd bench --format onnx-int8" in doctor.int8_instructions(text).fix


def test_the_processor_is_read_where_linux_shows_it(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "CPUINFO", tmp_path / "cpuinfo")
    assert "unknown" in _of(doctor._processor(), "int8 instructions").found
    (tmp_path / "cpuinfo").write_text(FLAGS.format("avx_vnni"))
    assert _of(doctor._processor(), "int8 instructions").found == "VNNI"


@pytest.mark.parametrize("there", [True, False])
def test_the_check_of_tensorrt_is_optional(monkeypatch, there):
    monkeypatch.setattr(trtcheck, "available", lambda: there)
    said = _of(doctor._packages(), trtcheck.TOOL)
    assert said.state == "ok" and (said.fix == "") == there


def _of(findings, what):
    return next(finding for finding in findings if finding.what == what)
