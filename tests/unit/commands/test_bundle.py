"""`edgekd bundle`: the same inputs give the same bytes, a bare Python can use them, and a changed byte anywhere is refused."""

import json
import os
import shlex
import shutil
import stat
import subprocess
import sys
import tarfile
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from provenchain import STEPS, call, flip, reseal
from torchless import torchless

from edgekd import recipe as recipes
from edgekd.commands import bundle_files, bundle_selftest, signing
from edgekd.data.roles import split
from edgekd.errors import CheckFailed
from edgekd.params import BenchParams
from edgekd.runner.bundle import FILE, SIGNATURE
from edgekd.store import Store

PLAIN = {"README.txt", "bundle.json", "golden.npz", "labels.txt", "model.onnx", "runner.pyz"}
IMAGES = {"images_test.npy", "labels_test.npy", "rows.npy"}


def make(home, *argv):
    done = call(home, "bundle", *argv, "--json", "--workspace", "w")
    return SimpleNamespace(code=done.code, facts=json.loads(done.out), err=done.err)


def runner(folder, *argv):
    """The bundle's own program in a Python that knows nothing of edgekd's sources: (exit code, last line of its answer)."""
    command = [sys.executable, "-I", "runner.pyz", *map(str, argv)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode, json.loads((done.stdout or done.stderr).splitlines()[-1])


@pytest.fixture(scope="module")
def signed(proven, tmp_path_factory):
    """A key, and a signed bundle with test images."""
    home = tmp_path_factory.mktemp("signed")
    shutil.copytree(proven.home / "w", home / "w")
    key = json.loads(call(home, "bundle", "keygen", "key.pem", "--json").out)
    made = make(home, "--kind", "bench", "--sign", "key.pem", "--output", "b")
    assert made.code == 0, made.err
    return SimpleNamespace(home=home, folder=home / "b", public=key["public_key"], facts=made.facts)


# ---- what is in it ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind, files", [("deploy", PLAIN), ("bench", PLAIN | IMAGES)])
def test_a_bundle_holds_what_it_lists_and_passes_its_own_test(proven, home, kind, files):
    made = make(home, "--kind", kind, "--output", "b")
    assert made.code == 0, made.err
    assert {path.name for path in (home / "b").iterdir()} == files
    assert set(made.facts["files"]) == files - {FILE}
    assert made.facts["selftest"]["ran"] and made.facts["artifact"] == proven.steps["export/onnx-int8"].id
    text = (home / "b" / "README.txt").read_text()
    lines = [line.split() for line in text.splitlines() if line.startswith("    python3 runner.pyz")]
    assert len(lines) == 3 and lines[0][2] == "selftest"
    said = json.loads((home / "b" / FILE).read_text())
    assert said["lineage"] == {step: proven.steps[step].key for step in STEPS[:-1]}
    assert str(home) not in (home / "b" / FILE).read_text()
    if kind == "bench":
        roles = split(proven.steps["data"], recipe_roles(proven))
        assert np.array_equal(np.load(home / "b" / "rows.npy"), roles.rows["test"])
        assert np.load(home / "b" / "images_test.npy").dtype == np.uint8


def recipe_roles(proven):
    return BenchParams.model_validate(proven.steps[STEPS[-1]].manifest["params"]).roles


def test_the_same_inputs_give_the_same_bytes(home):
    for name in ("one", "two", "one.tar"):
        assert make(home, "--kind", "bench", "--output", name).code == 0
    bundle_files.pack(home / "two", home / "two.tar")
    for path in (home / "one").iterdir():
        assert path.read_bytes() == (home / "two" / path.name).read_bytes(), path.name
    assert (home / "one.tar").read_bytes() == (home / "two.tar").read_bytes()
    with tarfile.open(home / "one.tar") as archive:
        entries = archive.getmembers()
        assert [e.name for e in entries] == sorted(p.name for p in (home / "one").iterdir())
        assert {(e.mtime, e.uid, e.gid, e.uname, e.gname) for e in entries} == {(0, 0, 0, "", "")}
        for entry in entries:
            assert archive.extractfile(entry).read() == (home / "one" / entry.name).read_bytes()


def test_the_lines_of_the_readme_work_on_a_bare_python(proven, home):
    assert make(home, "--output", "b").code == 0
    code, said = runner(home / "b", "selftest", ".")
    assert code == 0 and said["target"] == "onnx-int8"
    image = np.load(proven.steps["data"].path / "images_test.npy")[0, ..., 0]
    Image.fromarray(image).save(home / "digit.png")
    code, said = runner(home / "b", "predict", ".", home / "digit.png")
    ours = json.loads(call(home, "predict", "digit.png", "--json", "--workspace", "w").out)
    assert code == 0 and ours["images"][0]["classes"][0]["class"] in json.dumps(said)


@pytest.mark.parametrize("source", ["export/onnx-int8", STEPS[-1]])
def test_an_export_and_its_measurement_are_the_same_bundle(proven, home, source):
    made = make(home, "--from", proven.steps[source].id, "--format", "onnx-int8", "--output", "b")
    assert made.code == 0 and made.facts["artifact"] == proven.steps["export/onnx-int8"].id


def test_an_onnx_file_with_its_facts_inside_is_exported_and_bundled(proven, home):
    shutil.copyfile(proven.steps["graph"].path / "model.onnx", home / "mine.onnx")
    made = make(home, "--from", "mine.onnx", "--format", "onnx", "--output", "b")
    assert made.code == 0, made.err
    assert made.facts["target"] == "onnx" and made.facts["selftest"]["ran"]
    assert "adopt" not in made.facts["artifact"]


def test_a_bundle_is_made_without_torch(home):
    done = torchless(home, "bundle", "--kind", "bench", "--workspace", "w", "--output", "b")
    assert "next: edgekd bundle verify b" in done.stdout


@pytest.mark.parametrize("name", ["my bundle", "my bundle.tar"])
def test_the_printed_line_works_as_typed(signed, tmp_path, name):
    """From the folder that it was printed in; a tar is unpacked by it."""
    folder = tmp_path / "my bundle"
    shutil.copytree(signed.home / "b", folder)
    if name.endswith(".tar"):
        bundle_files.pack(folder, tmp_path / name)
        shutil.rmtree(folder)
    done = call(tmp_path, "bundle", "verify", name, "--public-key", signed.public, "--json")
    line = json.loads(done.out)["next"].replace("python3", shlex.quote(sys.executable))
    ran = subprocess.run(["/bin/sh", "-c", line], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0 and json.loads(ran.stdout)["target"] == "onnx-int8", ran.stderr


# ---- refused before anything is written -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "argv, code, said",
    [
        (["--format", "onnx"], 2, "edgekd export --format onnx"),
        (["--from", "student"], 2, "edgekd export"),
        (["--device", "cpu,jetson-orin-nano"], 2, "several devices"),
        (["--device", "jetson"], 5, "--device jetson-"),
        (["--sign", "nothing.pem"], 2, "edgekd bundle keygen nothing.pem"),
        (["--output", "taken"], 2, "is there and is no bundle"),
    ],
)
def test_what_cannot_be_bundled_is_refused(home, argv, code, said):
    (home / "taken").mkdir()
    (home / "taken" / "mine.txt").write_text("mine")
    before = sorted(path.name for path in home.iterdir())
    done = call(home, "bundle", *argv, "--workspace", "w")
    assert done.code == code and said in done.err, done.err
    assert sorted(path.name for path in home.iterdir()) == before and not (home / "w" / "bundles").exists()


def test_a_damaged_export_is_not_bundled(proven, home):
    flip(home / "w" / "artifacts" / proven.steps["export/onnx-int8"].id / "model.onnx")
    made = make(home, "--output", "b")
    assert made.code == 6 and not (home / "b").exists()


def test_a_bundle_whose_own_test_fails_is_not_left_behind(proven, home):
    """Golden logits that the model does not give, sealed as if they were its own."""
    old = Store(home / "w").get(proven.steps["export/onnx-int8"].id)
    with np.load(old.path / "golden.npz") as golden:
        np.savez(old.path / "golden.npz", images=golden["images"], logits=-golden["logits"])
    folder = reseal(old.path, json.loads(json.dumps(old.manifest)))
    made = make(home, "--from", f"export/onnx-int8/{folder.name}", "--output", "b")
    assert made.code == 3 and "selftest" in made.facts["error"]["where"]
    assert not (home / "b").exists() and not list(home.glob(".edgekd-*"))


@pytest.mark.parametrize("transport, code, ran", [("local", 5, False), ("ssh", 4, False), ("local", 3, None)])
def test_a_runtime_that_is_not_here_is_said_and_everything_else_raised(monkeypatch, tmp_path, transport, code, ran):
    line = {"exit_code": code, "where": "engine", "found": "not here", "expected": "", "hint": ""}
    answer = subprocess.CompletedProcess([], code, "", json.dumps(line))
    monkeypatch.setattr(bundle_selftest.subprocess, "run", lambda *args, **more: answer)
    params = SimpleNamespace(transport=transport)
    if ran is None:
        with pytest.raises(CheckFailed):
            bundle_selftest.selftest(tmp_path, params, None)
    else:
        assert bundle_selftest.selftest(tmp_path, params, None) == {"ran": ran, "why": "selftest: engine: not here"}


# ---- signed -----------------------------------------------------------------------------------------------------------


def test_a_key_is_its_owners_alone_and_never_written_over(tmp_path):
    done = call(tmp_path, "bundle", "keygen", "key.pem")
    public = (tmp_path / "key.pem.pub").read_text().strip()
    assert done.code == 0 and public in done.out and len(bytes.fromhex(public)) == 32
    if os.name == "posix":
        assert stat.S_IMODE((tmp_path / "key.pem").stat().st_mode) == 0o600
    before = (tmp_path / "key.pem").read_bytes()
    assert call(tmp_path, "bundle", "keygen", "key.pem").code == 2
    assert (tmp_path / "key.pem").read_bytes() == before


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX's")
def test_a_key_that_others_can_read_is_not_used(signed, home):
    shutil.copyfile(signed.home / "key.pem", home / "my key.pem")
    (home / "my key.pem").chmod(0o640)
    done = call(home, "bundle", "--sign", "my key.pem", "--workspace", "w")
    assert done.code == 2 and "chmod 600 'my key.pem'" in done.err


def test_without_cryptography_the_line_that_installs_it_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(signing.importlib.util, "find_spec", lambda name: None)
    done = call(tmp_path, "bundle", "keygen", "key.pem")
    assert done.code == 5 and signing.INSTALL in done.err and not list(tmp_path.iterdir())


def test_a_signed_bundle_is_the_signers_and_nobody_elses(signed, tmp_path):
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(signed.public))
    key.verify(bytes.fromhex((signed.folder / SIGNATURE).read_text()), (signed.folder / FILE).read_bytes())
    for given in (signed.public, signed.home / "key.pem.pub"):
        done = call(tmp_path, "bundle", "verify", signed.folder, "--public-key", given)
        assert done.code == 0 and "signed by that key" in done.out
    other = json.loads(call(tmp_path, "bundle", "keygen", "other.pem", "--json").out)["public_key"]
    assert call(tmp_path, "bundle", "verify", signed.folder, "--public-key", other).code == 6
    assert runner(signed.folder, "selftest", ".", "--public-key", signed.public)[0] == 0
    assert runner(signed.folder, "selftest", ".", "--public-key", other)[0] == 6


def test_without_a_key_only_the_hashes_are_vouched_for_and_that_is_said(signed, tmp_path):
    done = call(tmp_path, "bundle", "verify", signed.folder)
    assert done.code == 0 and "its signature was not checked" in done.out and "not who wrote bundle.json" in done.out


def spoil(folder, how):
    """One act of tampering; the name that must be said."""
    kind, _, name = how.partition(":")
    if kind == "flip":
        flip(folder / name)
        return "signature" if name in (FILE, SIGNATURE) else name
    if kind == "extra":
        (folder / name).write_bytes(b"x")
        return name
    if kind == "gone":
        (folder / name).unlink()
        return name
    one, other = name.split("=")
    content = (folder / one).read_bytes()
    (folder / one).write_bytes((folder / other).read_bytes())
    (folder / other).write_bytes(content)
    return ""


WHOLE = sorted(PLAIN | IMAGES | {SIGNATURE})
TAMPERINGS = [
    *(f"flip:{name}" for name in WHOLE),
    *(f"gone:{name}" for name in WHOLE if name != FILE),
    "extra:more.onnx",
    "extra:.hidden",
    "swap:model.onnx=golden.npz",
    "swap:images_test.npy=labels_test.npy",
]


@pytest.mark.parametrize("how", TAMPERINGS)
@pytest.mark.parametrize("form", ["folder", "tar"])
def test_tampering_is_refused_and_named(signed, tmp_path, how, form):
    assert {path.name for path in signed.folder.iterdir()} == set(WHOLE)
    shutil.copytree(signed.folder, tmp_path / "b")
    named = spoil(tmp_path / "b", how)
    if form == "tar":
        bundle_files.pack(tmp_path / "b", tmp_path / "b.tar")
    place = "b" if form == "folder" else "b.tar"
    done = call(tmp_path, "bundle", "verify", place, "--public-key", signed.public, "--json")
    error = json.loads(done.out)["error"]
    assert done.code == 6 and error["reason"] == "integrity"
    words = (error["where"] + error["found"]).lower()
    assert named.lower() in words or (named == "signature" and SIGNATURE in words), error


@pytest.mark.parametrize("how", ["flip:bundle.json", "flip:bundle.sig", "flip:model.onnx", "extra:more.onnx"])
def test_the_board_refuses_it_too_before_it_loads_anything(signed, tmp_path, how):
    shutil.copytree(signed.folder, tmp_path / "b")
    spoil(tmp_path / "b", how)
    code, error = runner(tmp_path / "b", "selftest", ".", "--public-key", signed.public)
    assert code == 6 and error["reason"] == "integrity"


def test_a_bundle_json_that_says_nonsense_is_tampering_even_unsigned(signed, tmp_path):
    shutil.copytree(signed.folder, tmp_path / "b")
    text = (tmp_path / "b" / FILE).read_text()
    (tmp_path / "b" / FILE).write_text(text.replace('"kind"', '"kimd"'))
    assert call(tmp_path, "bundle", "verify", "b").code == 6


@pytest.mark.parametrize("name", ["../out.txt", "/out.txt", "a/b.txt"])
def test_a_tar_that_leads_out_of_its_folder_is_refused(signed, tmp_path, name):
    with tarfile.open(tmp_path / "b.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo(name))
    done = call(tmp_path, "bundle", "verify", "b.tar")
    assert done.code == 6 and not (tmp_path.parent / "out.txt").exists()


def test_a_cut_tar_and_no_bundle_are_refused(signed, tmp_path):
    bundle_files.pack(signed.folder, tmp_path / "b.tar")
    content = (tmp_path / "b.tar").read_bytes()
    (tmp_path / "b.tar").write_bytes(content[: len(content) // 2])
    assert call(tmp_path, "bundle", "verify", "b.tar").code == 6
    assert call(tmp_path, "bundle", "verify", "nothing").code == 2
    assert recipes.NAME
