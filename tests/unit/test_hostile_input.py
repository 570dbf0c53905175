"""Broken data, wrong and poisoned checkpoints, a disk that refuses: seen through the command line."""

import html
import io
import json
import os
import pickle
import resource
import shutil
import subprocess
import sys
import zlib
from random import Random

import numpy as np
import onnx
import pyarrow
import pytest
import torch
import yaml
from PIL import Image
from pyarrow import parquet
from safetensors.torch import save_file

from edgekd import models
from edgekd.artifact import payload_digest, sealed_bytes, sha256_file
from edgekd.errors import EdgekdError, IntegrityError
from edgekd.fit import checkpoint
from edgekd.models.checkpoint import load_checkpoint
from tests.faults.chain import command

TEACHER = {"model": "resnet8", "checkpoint": "teacher.pt"}
RECIPE = {
    "name": "hostile",
    "data": {"use": "digits", "train": 100},
    "teacher": TEACHER,
    "student": {"model": "resnet8", "fit": {"epochs": 1}},
    "distill": {"use": "kd"},
}
FITTED = {**RECIPE, "teacher": {"model": "resnet8", "fit": {"epochs": 1}}}
NOISE = bytes(range(256)) * 16


class Evil:
    """Unpickling it would create a file."""

    def __reduce__(self):
        return (os.system, ("touch pwned",))


def edgekd(*argv, cwd, limit=None):
    def cut():
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.run(
        [sys.executable, "-m", "edgekd", *argv], cwd=cwd, capture_output=True, text=True, check=False, preexec_fn=cut
    )


def train(folder, recipe=RECIPE, **more):
    (folder / "r.yaml").write_text(yaml.safe_dump(recipe))
    done = edgekd("train", "--recipe", "r.yaml", "--data-root", ".", cwd=folder, **more)
    assert "Traceback" not in done.stderr, done.stderr
    assert len(done.stderr.splitlines()) <= 25
    assert not list((folder / "workspace" / "artifacts").glob("teacher/*"))
    return done


def test_a_checkpoint_that_is_not_there_is_exit_2(tmp_path):
    done = train(tmp_path)
    assert done.returncode == 2 and "teacher.pt" in done.stderr and "r.yaml" in done.stderr


def test_a_checkpoint_of_another_network_is_exit_2(tmp_path):
    torch.save({"state_dict": {"module.conv9.weight": torch.zeros(3)}}, tmp_path / "teacher.pt")
    done = train(tmp_path)
    assert done.returncode == 2 and "conv9" in done.stderr


@pytest.mark.parametrize("content", [pickle.dumps(Evil()), NOISE], ids=["poisoned", "noise"])
def test_a_poisoned_or_damaged_checkpoint_is_exit_6_and_never_run(tmp_path, content):
    (tmp_path / "teacher.pt").write_bytes(content)
    done = train(tmp_path)
    assert done.returncode == 6, done.stderr
    assert not (tmp_path / "pwned").exists()


def test_a_cut_safetensors_checkpoint_is_exit_6(tmp_path):
    save_file({"a": torch.zeros(100)}, tmp_path / "teacher.safetensors")
    whole = (tmp_path / "teacher.safetensors").read_bytes()
    (tmp_path / "teacher.safetensors").write_bytes(whole[:200])
    done = train(tmp_path, {**RECIPE, "teacher": {**TEACHER, "checkpoint": "teacher.safetensors"}})
    assert done.returncode == 6


@pytest.mark.parametrize("content", [b"", b"PAR1 nothing PAR1"])
def test_corrupt_parquet_is_exit_6(tmp_path, content):
    folder = tmp_path / "photos"
    folder.mkdir()
    for split in ("train", "test"):
        (folder / f"{split}-00000-of-00001.parquet").write_bytes(content)
    done = train(tmp_path, {**FITTED, "data": {"use": "parquet", "path": "photos"}})
    assert done.returncode == 6 and "parquet" in done.stderr


def test_a_disk_that_refuses_is_exit_7_and_the_rerun_goes_on(tmp_path):
    done = train(tmp_path, FITTED, limit=200_000)  # the data fits, a checkpoint with its momentum does not
    assert done.returncode == 7, done.stderr
    again = edgekd("train", "--recipe", "r.yaml", cwd=tmp_path)
    assert again.returncode == 0 and "reused  data" in again.stderr
    assert edgekd("artifacts", "verify", cwd=tmp_path).returncode == 0


def seen(folder):
    """Everything below a folder: names, bytes, links."""
    found = {}
    for path in sorted(folder.rglob("*")):
        kind = "link" if path.is_symlink() else "folder" if path.is_dir() else path.read_bytes()
        found[path.relative_to(folder).as_posix()] = kind
    return found


def refused(done, *codes):
    assert done.returncode in codes, (done.returncode, done.stderr)
    assert "Traceback" not in done.stderr and done.stderr.startswith("error: "), done.stderr
    assert len(done.stderr.splitlines()) <= 25 and max(map(len, done.stderr.splitlines())) <= 1100
    assert not any(c < " " and c not in "\n\t" for c in done.stderr + done.stdout)


def as_zip(payload):
    """What `torch.save` writes: a zip with a pickle in it."""
    file = io.BytesIO()
    torch.save(payload, file)
    return file.getvalue()


def as_old(payload):
    file = io.BytesIO()
    torch.save(payload, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


POISONS = {
    "pickle": lambda: pickle.dumps(Evil()),
    "zip": lambda: as_zip(Evil()),
    "old": lambda: as_old(Evil()),
    "inside": lambda: as_zip({"state_dict": {"conv1.weight": torch.zeros(1), "x": Evil()}}),
    "eval": lambda: b"c__builtin__\neval\n(S\"open('pwned', 'w')\"\ntR.",
    "sparse": lambda: as_zip({"conv1.weight": torch.zeros(16, 3, 3, 3).to_sparse()}),
    "complex": lambda: as_zip({"conv1.weight": torch.zeros(16, 3, 3, 3, dtype=torch.complex64)}),
    "meta": lambda: as_zip({"conv1.weight": torch.zeros(16, 3, 3, 3, device="meta")}),
    "list": lambda: as_zip([1, 2]),
    "empty": lambda: b"",
    "cut short": lambda: b"PK\x03\x04 cut short",
}


@pytest.mark.parametrize("name", sorted(POISONS))
def test_no_form_of_poison_is_run(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "teacher.th").write_bytes(POISONS[name]())
    with pytest.raises(IntegrityError):
        load_checkpoint(models.build("resnet8", classes=10), tmp_path / "teacher.th", "resnet8")
    assert not (tmp_path / "pwned").exists()


def test_a_poisoned_zip_is_exit_6_and_never_run(tmp_path):
    (tmp_path / "teacher.pt").write_bytes(as_zip({"state_dict": Evil()}))
    done = train(tmp_path)
    assert done.returncode == 6 and "nothing in the file was run" in done.stderr
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("form", [as_zip, as_old])
def test_turned_bits_in_a_checkpoint_give_no_error_of_anyone_else(tmp_path, form):
    network = models.build("resnet8", classes=10, generator=torch.Generator().manual_seed(0))
    whole, random, refusals = form(network.state_dict()), Random(0), 0
    for _ in range(80):
        content = bytearray(whole)
        for _ in range(random.randint(1, 3)):
            at = random.randrange(*random.choice([(0, 4000), (len(content) - 9000, len(content))]))
            content[at] = random.choice([content[at] ^ 1 << random.randrange(8), random.randrange(256)])
        (tmp_path / "x.pt").write_bytes(content if random.random() < 0.8 else content[: random.randrange(len(content))])
        try:
            load_checkpoint(network, tmp_path / "x.pt", "resnet8")
        except EdgekdError as error:
            assert error.exit_code in (2, 6)
            refusals += 1
    assert refusals >= 40


def test_a_spoilt_training_checkpoint_is_refused_or_the_same(tmp_path):
    tensors = {"a": torch.arange(300.0), "none": torch.zeros(0), "n": torch.tensor(3)}
    path, random, refusals = checkpoint.save(tmp_path, 1, tensors, {"epoch": 1, "text": "é"}), Random(1), 0
    whole = path.read_bytes()
    for n in range(300):
        content = bytearray(whole)
        if n % 3:
            content[random.randrange(len(content))] ^= 1 << random.randrange(8)
        else:
            del content[random.randrange(len(content)) :]
        path.write_bytes(content)
        try:
            found, state = checkpoint.read(path)
        except IntegrityError:
            refusals += 1
            continue
        assert state == {"epoch": 1, "text": "é"} and all(torch.equal(found[name], tensors[name]) for name in tensors)
    assert refusals >= 290


BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40)) + "name: *a39\n"
YAML = {
    "object": b"name: !!python/object/apply:os.system ['touch pwned']\n",
    "module": b"name: !!python/module:os\n",
    "bomb": BOMB.encode(),
    "self": b"name: &a [*a]\n",
    "deep": b"name: " + b"[" * 10_000 + b"]" * 10_000,
    "deep mapping": b"{a: " * 10_000 + b"}" * 10_000,
    "deep block": b"".join(b" " * n + b"a:\n" for n in range(200)),
    "large": b"name: " + b"x" * 70_000,
    "long word": b"name: " + b"x" * 60_000,
    "huge number": b"seed: 1" + b"0" * 4000,
    "huge hex": b"seed: 0x" + b"f" * 50_000,
    "infinite": b"student: {model: resnet8, fit: {lr: .inf}}",
    "not a number": b"student: {model: resnet8, fit: {weight_decay: .nan}}",
    "too large": b"student: {model: resnet8, fit: {lr: 1e999}}",
    "NUL": b"name: a\x00b\n",
    "NUL escaped": b'name: "a\\0b"\n',
    "terminal": b'name: "\\e[2J\\e]0;pwned\\a"\n',
    "half a character": b'name: "\\ud800"\n',
    "not UTF-8": b"name: \xff\xfe\n",
    "twice": b"name: a\nname: b\n",
    "merge": b"<<: {name: a}\n",
    "two documents": b"name: a\n---\nname: b\n",
    "a list": b"- name\n",
    "path": b"name: ../../out\n",
    "targets": b"name: a\nexport: [" + b"onnx, " * 5000 + b"]\n",
}


@pytest.mark.parametrize("name", sorted(YAML))
def test_a_hostile_recipe_is_exit_2_on_one_screen(tmp_path, name):
    home = tmp_path / "home"
    home.mkdir()
    (home / "r.yaml").write_bytes(YAML[name])
    before = seen(tmp_path)
    refused(edgekd("recipes", "validate", "r.yaml", cwd=home), 2)
    assert seen(tmp_path) == before


@pytest.mark.parametrize(
    "text", ["seed=1\nname: b", "=1", "a" * 9000 + "=1", ".".join("a" * 9000) + "=1", "seed=!!int 3"]
)
def test_a_hostile_override_is_exit_2(tmp_path, text):
    refused(edgekd("recipes", "validate", "quickstart", "--set", text, cwd=tmp_path), 2)
    assert seen(tmp_path) == {}


def png(width, height, colour=0):
    file = io.BytesIO()
    Image.new("L", (width, height), colour).save(file, "PNG")
    return file.getvalue()


def bomb_png(width, height):
    """A PNG whose header says more pixels than its few bytes should ever become."""
    whole = bytearray(png(1, 1))
    whole[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    whole[29:33] = zlib.crc32(bytes(whole[12:29])).to_bytes(4, "big")
    return bytes(whole)


def photos(folder, images, classes=("a", "b")):
    """Image Parquet with the same images in both splits, but for one pixel."""
    folder.mkdir()
    info = {"info": {"features": {"label": {"names": list(classes)}}}}
    for split, shade in (("train", 0), ("test", 100)):
        rows = [image(shade) for image in images]
        struct = pyarrow.array(
            [{"bytes": row, "path": None} for row in rows],
            pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()}),
        )
        labels = pyarrow.array([n % len(classes) for n in range(len(rows))], pyarrow.int64())
        table = pyarrow.table({"image": struct, "label": labels})
        table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
        parquet.write_table(table, folder / f"{split}-00000-of-00001.parquet")


SETS = {
    "mixed sizes": (2, "data: {size:", [lambda shade, n=n: png(8 + n, 8, shade + n) for n in range(6)]),
    "zero images": (2, "no images", []),
    "decompression bomb": (6, "bomb", [lambda shade: bomb_png(60_000, 60_000), lambda shade: png(8, 8, shade)]),
}


@pytest.mark.parametrize("name", sorted(SETS))
def test_hostile_parquet_is_refused_in_words(tmp_path, name):
    code, says, images = SETS[name]
    photos(tmp_path / "photos", images)
    done = train(tmp_path, {**FITTED, "data": {"use": "parquet", "path": "photos"}})
    assert done.returncode == code and says in done.stderr, done.stderr


CLASSES = ("../../../out", "<script>alert(1)</script>", "[bold]x[/bold] & {{7*7}}", 'x" onload="alert(1)')


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    """A chain up to export over classes with markup and path parts in their names, and what stood around it before."""
    around = tmp_path_factory.mktemp("around")
    home = around / "deep" / "home"
    home.mkdir(parents=True)
    random = np.random.default_rng(0)

    def image(shade):
        file = io.BytesIO()
        Image.fromarray(random.integers(0, 256, (16, 16), np.uint8)).save(file, "PNG")
        return file.getvalue()

    photos(home / "photos", [image] * 64, CLASSES)
    fit = {"epochs": 1, "lr": 0.05, "device": "cpu"}
    recipe = {**RECIPE, "data": {"use": "parquet", "path": "photos"}, "student": {"model": "resnet8", "fit": fit}}
    recipe = {**recipe, "distill": {"use": "ce"}, "export": ["onnx"]}
    del recipe["teacher"]
    (home / "r.yaml").write_text(json.dumps(recipe))
    done = edgekd("export", "--recipe", "r.yaml", "--data-root", ".", "--output", "out", cwd=home)
    assert done.returncode == 0, done.stderr
    assert set(around.iterdir()) == {around / "deep"} and set((around / "deep").iterdir()) == {home}
    assert {path.name for path in home.iterdir()} == {"photos", "r.yaml", "workspace", "out"}
    return home


def test_class_names_are_text_and_nothing_else(shipped):
    (labels,) = shipped.glob("out/*/labels.txt")
    assert labels.read_text().splitlines() == list(CLASSES)
    assert edgekd("report", cwd=shipped).returncode == 0
    page = (shipped / "workspace" / "reports" / "hostile" / "report.html").read_text()
    assert html.escape(CLASSES[1], quote=False) in html.unescape(page).replace("<", "&lt;").replace(">", "&gt;")
    assert (
        "<script>alert" not in page and 'onload="alert' not in page and "49" not in "".join(c for c in page if c == "{")
    )
    done = edgekd("eval", cwd=shipped)
    assert done.returncode == 0 and CLASSES[2] in done.stdout


@pytest.fixture
def copy(shipped, tmp_path):
    shutil.copytree(shipped, tmp_path / "deep" / "home", symlinks=True)
    return tmp_path / "deep" / "home"


def folder_of(home, step):
    (path,) = (home / "workspace" / "artifacts" / step).glob("*-*")
    return path


def reseal(folder, change):
    """Edit a manifest as an attacker who knows how it is sealed."""
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    for name in ("model.onnx",):
        if name in manifest.get("files", {}):
            manifest["files"][name]["sha256"] = sha256_file(folder / name)
    if isinstance(manifest.get("files"), dict) and all(isinstance(e, dict) for e in manifest["files"].values()):
        manifest["digest"] = payload_digest(manifest["files"]) if manifest["files"] else "0" * 64
    (folder / "manifest.json").write_bytes(sealed_bytes(manifest))
    return folder.rename(folder.with_name(f"{folder.name[:8]}-{manifest['digest'][:8]}"))


def _garbage(path):
    path.write_bytes(NOISE)


def _outside(path):
    """Weights that are to be read from a file beyond the folder."""
    model = onnx.load(path)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../../../../secret.bin")
    path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize("spoil", [_garbage, _outside])
@pytest.mark.parametrize("known", [False, True], ids=["as it was sealed", "sealed again"])
def test_a_hostile_graph_is_exit_6(copy, spoil, known):
    folder = folder_of(copy, "export/onnx")
    (copy.parent / "secret.bin").write_bytes(bytes(100_000))
    (copy / "image.png").write_bytes(png(16, 16))
    spoil(folder / "model.onnx")
    name = reseal(folder, lambda manifest: None).name if known else folder.name
    before = seen(copy.parent)
    refused(edgekd("predict", "image.png", "--from", name, cwd=copy), 6)
    assert seen(copy.parent) == before


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


CHANGES = {
    "step": lambda m: m.update(step="../../../out"),
    "other step": lambda m: m.update(step="teacher"),
    "key": lambda m: m.update(key="../../../out"),
    "file": lambda m: m["files"].update({"../../../secret": {"sha256": "0" * 64, "bytes": 1, "payload": False}}),
    "absolute": lambda m: m["files"].update({"/etc/passwd": {"sha256": "0" * 64, "bytes": 1, "payload": False}}),
    "input": lambda m: m["inputs"]["source"].update(id="../../../out"),
    "files": lambda m: m.update(files=[1]),
    "metrics": lambda m: m.update(metrics="many"),
    "metric": lambda m: m["metrics"].update(top1_percent="<b>99</b>"),
    "bytes": lambda m: m["files"]["labels.txt"].update(bytes=10**18 * 1000),
    "deep": lambda m: m.update(params={"a": nested(500)}),
    "large": lambda m: m.update(params={"a": "x" * 5_000_000}),
    "schema": lambda m: m.update(schema=2),
}


@pytest.mark.parametrize("name", sorted(CHANGES))
def test_a_hostile_manifest_is_no_artifact(copy, name):
    reseal(folder_of(copy, "export/onnx"), CHANGES[name])
    (copy.parent / "secret").write_text("x")
    before = seen(copy)
    code, listed = command(copy, "artifacts", "ls", "--json")
    assert code == 0 and "export/onnx" not in listed
    refused(edgekd("artifacts", "verify", cwd=copy), 6)
    assert seen(copy) == before
    assert command(copy, "artifacts", "gc", "--yes")[0] == 0
    assert set(before) - set(seen(copy)) == {
        path for path in before if path.startswith("workspace/artifacts/export/onnx/")
    }
    assert (copy.parent / "secret").read_text() == "x"


def record_of(copy, **more):
    path = copy / "workspace" / "runs" / "hostile.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **more}))


RECORDS = {
    "HEAD path": lambda home: (home / "workspace" / "HEAD").write_text("../../../secret"),
    "HEAD bytes": lambda home: (home / "workspace" / "HEAD").write_bytes(b"\xff\x00"),
    "HEAD large": lambda home: (home / "workspace" / "HEAD").write_bytes(b"a" * 5_000_000),
    "run name": lambda home: record_of(home, name="../../../out"),
    "run step": lambda home: record_of(home, steps=[["student", "../../../../secret"]]),
    "run steps": lambda home: record_of(home, steps=7),
    "run recipe": lambda home: record_of(home, recipe=[1]),
    "run deep": lambda home: record_of(home, recipe={"a": nested(500)}),
    "tag path": lambda home: tag_of(home).write_text("../../../../secret"),
    "tag bytes": lambda home: tag_of(home).write_bytes(NOISE),
    "tag link": lambda home: tag_of(home).symlink_to(home.parent / "secret"),
}


def tag_of(home):
    (home / "workspace" / "artifacts" / ".tags").mkdir(exist_ok=True)
    return home / "workspace" / "artifacts" / ".tags" / "prod"


@pytest.mark.parametrize("name", sorted(RECORDS))
def test_a_hostile_record_is_exit_6_and_nothing_is_removed(copy, name):
    (copy.parent / "secret").write_text("TOP SECRET")
    RECORDS[name](copy)
    before = seen(copy.parent)
    command = ["artifacts", "gc", "--yes"] if not name.startswith("HEAD") else ["report"]
    done = edgekd(*command, cwd=copy)
    refused(done, 6)
    assert seen(copy.parent) == before and "TOP SECRET" not in done.stderr


LINKS = [
    "",
    ".scratch",
    ".locks",
    ".tags",
    "data",
    "student",
    ".scratch/{}",
    ".scratch/{}/out",
    ".scratch/{}/resume",
    ".scratch/{}/resume/x",
    ".locks/{}.lock",
]


@pytest.mark.parametrize("place", LINKS)
def test_nothing_is_written_or_deleted_through_a_link(copy, place):
    key = json.loads((folder_of(copy, "data") / "manifest.json").read_text())["key"]
    artifacts, outside = copy / "workspace" / "artifacts", copy.parent / "outside"
    link = artifacts / place.format(f"data-{key[:16]}")
    if place == "":
        artifacts.rename(outside)
    elif place in ("data", "student"):
        link.rename(outside)
    else:
        shutil.rmtree(folder_of(copy, "data"))  # to be made again
        outside.mkdir()
        for name in ("out", "resume", "lock"):
            (outside / name).mkdir()
            (outside / name / "mine").write_text("mine")
        if link.is_dir():
            shutil.rmtree(link)
        link.unlink(missing_ok=True)
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(outside / "lock" / "mine" if place.endswith(".lock") else outside)
    before = seen(outside)
    code, said = command(copy, "distill", "--recipe", "r.yaml", "--data-root", ".")
    assert code == (0 if place == ".tags" else 6), said
    assert seen(outside) == before
    for argv in (("artifacts", "gc", "--yes", "--unfinished"), ("artifacts", "tag", "x", "latest")):
        code, said = command(copy, *argv)
        assert code in (0, 2, 6), said
        assert seen(outside) == before, argv


@pytest.mark.parametrize("name", ["runs", "reports"])
def test_no_record_or_report_is_written_through_a_link(copy, name):
    outside = copy.parent / "outside"
    outside.mkdir()
    shutil.rmtree(copy / "workspace" / name, ignore_errors=True)
    (copy / "workspace" / name).symlink_to(outside)
    for argv in (("report",), ("export", "--recipe", "r.yaml", "--data-root", ".")):
        code, said = command(copy, *argv)
        assert code in (0, 6), said
        assert seen(outside) == {}
