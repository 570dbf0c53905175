import io
import os
import pickle
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import SMALLEST
from safetensors.torch import save_file

from edgekd import models
from edgekd.errors import IntegrityError, RecipeError
from edgekd.models.checkpoint import load_checkpoint

PUBLISHED = {"resnet56_a": ("resnet56-4bfd9763.th", 9_339), "resnet20_a": ("resnet20-12fca82f.th", 9_173)}
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def build(name: str = "resnet8_a", seed: int = 0, classes: int = 10) -> torch.nn.Module:
    return models.build(name, classes=classes, generator=torch.Generator().manual_seed(seed))


def same(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    return all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_our_own_and_foreign_files(tmp_path: Path) -> None:
    source = build()
    state = source.state_dict()
    foreign = {f"module.{key.replace('classifier.', 'linear.')}": value for key, value in state.items()}
    kept = {key: value for key, value in foreign.items() if "num_batches" not in key}
    save_file(state, tmp_path / "ours.safetensors")
    torch.save(state, tmp_path / "plain.pt")
    torch.save({"state_dict": kept, "best_prec1": 1.0, "epoch": 3}, tmp_path / "published.th")
    for path in tmp_path.iterdir():
        network = build(seed=1)
        assert not same(network, source)
        load_checkpoint(network, path, "resnet8_a")
        assert same(network, source), path


@pytest.mark.parametrize(
    "name", [name for family, name in SMALLEST.items() if import_module(f"edgekd.models.{family}").FOREIGN]
)
def test_published_key_names_of_a_family(tmp_path: Path, name: str) -> None:
    source = build(name)
    for foreign, own in models.family(name).FOREIGN.items():
        state = {
            foreign + key.removeprefix(own) if key.startswith(own) else key: value
            for key, value in source.state_dict().items()
        }
        assert state.keys() != source.state_dict().keys(), foreign
        torch.save({"state_dict": state}, tmp_path / "w.pt")
        network = build(name, seed=1)
        load_checkpoint(network, tmp_path / "w.pt", name)
        assert same(network, source)


@pytest.mark.parametrize(
    ("name", "classes", "told"),
    [
        ("resnet20_a", 10, "missing layer1.1.conv1.weight"),
        ("resnet8", 10, "missing layer2.0.shortcut"),
        ("resnet8_a", 100, "other shape classifier.weight 10x64 for 100x64"),
        ("wrn_16_1", 10, "missing layer1.1.bn1.weight"),
    ],
)
def test_another_architecture_lists_what_differs(tmp_path: Path, name: str, classes: int, told: str) -> None:
    torch.save(build().state_dict(), tmp_path / "w.pt")
    with pytest.raises(RecipeError) as caught:
        load_checkpoint(build(name, classes=classes), tmp_path / "w.pt", name, where="student.checkpoint")
    text = str(caught.value)
    assert text.startswith(f"student.checkpoint: w.pt does not fit {name}")
    assert told in text
    assert len(text) < 2000 and text.count(",") <= 20


class Poison:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.mark}",)


def test_a_poisoned_pickle_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    torch.save({"state_dict": build().state_dict(), "x": Poison(mark)}, tmp_path / "zip.th")
    (tmp_path / "raw.th").write_bytes(pickle.dumps(Poison(mark)))
    torch.save(Poison(mark), tmp_path / "old.th", _use_new_zipfile_serialization=False)
    for name in ("zip.th", "raw.th", "old.th"):
        with pytest.raises(IntegrityError) as caught:
            load_checkpoint(build(), tmp_path / name, "resnet8_a")
        assert caught.value.exit_code == 6
    assert not mark.exists()


def test_damaged_files(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save(build().state_dict(), buffer)
    save_file(build().state_dict(), tmp_path / "ok.safetensors")
    whole = (tmp_path / "ok.safetensors").read_bytes()
    bad = {
        "cut.pt": buffer.getvalue()[:5000],
        "empty.pt": b"",
        "text.pt": b"hello world, no checkpoint at all\n" * 10,
        "cut.safetensors": whole[: len(whole) // 2],
        "empty.safetensors": b"",
        "head.safetensors": b"\xff" * 64,
    }
    for name, data in bad.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(IntegrityError):
            load_checkpoint(build(), tmp_path / name, "resnet8_a")


def test_contents_that_are_no_weights(tmp_path: Path) -> None:
    state = build().state_dict()
    state["conv1.weight"][0, 0, 0, 0] = float("nan")
    for content in ([1, 2], {}, {"state_dict": {"a": 1}}, state):
        torch.save(content, tmp_path / "w.pt")
        with pytest.raises(IntegrityError):
            load_checkpoint(build(), tmp_path / "w.pt", "resnet8_a")
    with pytest.raises(RecipeError, match="no file"):
        load_checkpoint(build(), tmp_path / "absent.pt", "resnet8_a")


def test_nothing_is_loaded_when_something_is_wrong(tmp_path: Path) -> None:
    state = build(seed=1).state_dict()
    del state["classifier.bias"]
    torch.save(state, tmp_path / "w.pt")
    network = build()
    with pytest.raises(RecipeError):
        load_checkpoint(network, tmp_path / "w.pt", "resnet8_a")
    assert same(network, build())


@pytest.mark.data
def test_published_checkpoints_import_with_every_key(data_root: Path) -> None:
    for name, (file, _) in PUBLISHED.items():
        network = build(name)
        load_checkpoint(network, data_root / "pretrained" / file, name)
        given = torch.load(data_root / "pretrained" / file, weights_only=True, map_location="cpu")["state_dict"]
        kept = {key: value for key, value in network.state_dict().items() if not key.endswith("num_batches_tracked")}
        assert len(given) == len(kept)
        for key, value in given.items():
            assert torch.equal(kept[key.removeprefix("module.").replace("linear.", "classifier.")], value)


@pytest.mark.data
@pytest.mark.slow
def test_published_checkpoints_give_the_published_answers(data_root: Path) -> None:
    images, labels = _test_split(data_root / "data" / "cifar10")
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in IMAGENET)
    for name, (file, right) in PUBLISHED.items():
        network = build(name).eval().to(memory_format=torch.channels_last)
        load_checkpoint(network, data_root / "pretrained" / file, name)
        found = 0
        with torch.no_grad():
            for rows in torch.arange(len(images)).split(500):
                batch = (images[rows].permute(0, 3, 1, 2).float() / 255 - mean) / std
                found += int((network(batch).argmax(1) == labels[rows]).sum())
        assert found == right


def _test_split(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    import pyarrow.parquet
    from PIL import Image

    path = next(path for path in sorted(folder.rglob("*.parquet")) if "test" in path.name)
    table = pyarrow.parquet.read_table(path)
    column = "img" if "img" in table.column_names else "image"
    images = [np.asarray(Image.open(io.BytesIO(cell["bytes"]))) for cell in table[column].to_pylist()]
    return torch.from_numpy(np.stack(images)), torch.tensor(table["label"].to_pylist())
