from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from made_up import encode, noise, parquet_folder, write_parquet
from tolerances import PUBLISHED_STATISTICS

from edgekd.console import Console
from edgekd.data import normalize
from edgekd.data.roles import split
from edgekd.errors import IntegrityError, RecipeError, StageFailed
from edgekd.params import DataParams, Roles
from edgekd.stages import data, reserved
from edgekd.stages.base import RunContext, StageResult

Run = Callable[..., tuple[Path, StageResult]]
PETS = DataParams(use="parquet", args={"path": "pets"})


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def run(params: DataParams, *roots: Path) -> tuple[Path, StageResult]:
        out = tmp_path / f"out{time.monotonic_ns()}"
        out.mkdir()
        context = RunContext(roots or (tmp_path,), None, tmp_path / "resume", Console(quiet=True))
        located = data.locate(params, context.data_roots)
        data.check(located, context)
        return out, data.run(located, {}, out, context)

    return run


def info(out: Path) -> dict[str, object]:
    return dict(json.loads((out / "data.json").read_text()))


def test_what_the_artifact_holds(tmp_path: Path, run: Run) -> None:
    train, test = noise(9), noise(4, seed=1)
    parquet_folder(tmp_path / "pets", train, test)
    out, result = run(PETS)
    assert set(result.payload) == {path.name for path in out.iterdir()}
    assert result.metrics == {
        "n_train": 9, "n_test": 4, "classes": 2, "channels": 3, "height": 32, "width": 32, "dropped": 0,
    }  # fmt: skip
    images = np.load(out / "images_train.npy", mmap_mode="r")
    assert isinstance(images, np.memmap)
    assert np.array_equal(images, train)
    assert np.load(out / "labels_train.npy").dtype == np.int64
    facts = info(out)
    assert facts["name"] == "pets"
    assert facts["classes"] == ["cat", "dog"]
    assert facts["duplicates"] == {"rule": "error", "dropped": 0, "groups": 0, "repeated_in_train": 0}
    mean, std = normalize.measure(train)
    assert facts["normalize"] == {"mean": list(mean), "std": list(std)}


def test_the_same_sources_give_the_same_bytes(tmp_path: Path, run: Run) -> None:
    parquet_folder(tmp_path / "pets", noise(9), noise(4, seed=1))
    (one, result), (two, _) = run(PETS), run(PETS)
    for name in result.payload:
        assert (one / name).read_bytes() == (two / name).read_bytes()


def test_duplicates_across_splits(tmp_path: Path, run: Run) -> None:
    train, test = noise(9), noise(4, seed=1)
    train[[2, 7]] = test[3]
    train[5] = train[4]
    parquet_folder(tmp_path / "pets", train, test)
    with pytest.raises(RecipeError) as caught:
        run(PETS)
    assert caught.value.where == "data.duplicates"
    assert "1 images stand in more than one split, first train row 2 = test row 3" in caught.value.found
    out, result = run(PETS.model_copy(update={"duplicates": "drop_train"}))
    assert info(out)["duplicates"] == {"rule": "drop_train", "dropped": 2, "groups": 1, "repeated_in_train": 2}
    assert result.metrics["n_train"] == 7
    kept = [0, 1, 3, 4, 5, 6, 8]
    assert np.array_equal(np.load(out / "images_train.npy"), train[kept])
    assert np.load(out / "labels_train.npy").tolist() == [row % 2 for row in kept]
    assert np.load(out / "twins_train.npy").tolist() == [3, 4]
    assert set(result.payload) == {path.name for path in out.iterdir()}
    for seed in range(5):
        assert not {3, 4} & set(split(out, Roles(val=4, seed=seed)).rows["val"].tolist())


def test_a_val_split_gives_way_to_test_and_train_to_both(tmp_path: Path, run: Run) -> None:
    train, test, val = noise(6), noise(4, seed=1), noise(4, seed=2)
    train[0], val[1] = val[0], test[0]
    parquet_folder(tmp_path / "pets", train, test)
    write_parquet(tmp_path / "pets" / "val.parquet", [encode(image) for image in val], [0, 1, 0, 1])
    out, _ = run(PETS.model_copy(update={"duplicates": "drop_train"}))
    assert info(out)["splits"] == {"train": 5, "val": 3, "test": 4}


def test_nothing_left_of_train(tmp_path: Path, run: Run) -> None:
    parquet_folder(tmp_path / "pets", noise(2), noise(2))
    with pytest.raises(RecipeError, match="every image of train"):
        run(PETS.model_copy(update={"duplicates": "drop_train"}))


def test_a_class_without_training_image(tmp_path: Path, run: Run) -> None:
    parquet_folder(tmp_path / "pets", noise(3), noise(2, seed=1), classes=("cat", "dog", "eel"))
    with pytest.raises(RecipeError, match="'eel'"):
        run(PETS)


def test_files_that_change_during_a_run(tmp_path: Path) -> None:
    parquet_folder(tmp_path / "pets", noise(3), noise(2, seed=1))
    located = data.locate(PETS, [tmp_path])
    parquet_folder(tmp_path / "pets", noise(4), noise(2, seed=1))
    context = RunContext((tmp_path,), None, tmp_path, Console(quiet=True))
    for act in (lambda: data.check(located, context), lambda: data.run(located, {}, tmp_path, context)):
        with pytest.raises(IntegrityError, match="changed during the run"):
            act()


def test_parameters_are_checked_before_work(tmp_path: Path) -> None:
    context = RunContext((tmp_path,), None, tmp_path, Console(quiet=True))
    with pytest.raises(RecipeError, match="not found"):
        data.check(PETS, context)
    with pytest.raises(RecipeError, match=r"data\.resize"):
        data.check(PETS.model_copy(update={"resize": "squash"}), context)


def test_no_space_is_a_failed_stage_and_not_a_dead_process(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(reserved, "_reserve", full)
    parquet_folder(tmp_path / "pets", noise(3), noise(2, seed=1))
    with pytest.raises(StageFailed, match=r"images_train\.npy.*No space left"):
        run(PETS)


def test_locating_imports_no_framework(tmp_path: Path) -> None:
    parquet_folder(tmp_path / "pets", noise(2), noise(2, seed=1))
    code = (
        "import sys; from pathlib import Path; from edgekd.plan import DataParams; from edgekd.stages import data;"
        f"data.locate(DataParams(use='parquet', args={{'path': 'pets'}}), [Path({str(tmp_path)!r})]);"
        "sys.exit(str({'torch', 'sklearn', 'pyarrow', 'torchvision', 'onnxsim'} & set(sys.modules) or ''))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""


@pytest.mark.data
def test_the_real_cifar10(data_root: Path, run: Run) -> None:
    out, result = run(DataParams(use="cifar10"), data_root)
    assert result.metrics["n_train"] == 50_000
    assert result.metrics["n_test"] == 10_000
    assert info(out)["classes"] == [
        "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
    ]  # fmt: skip
    assert info(out)["layout"] == "parquet"
    assert np.bincount(np.load(out / "labels_train.npy")).tolist() == [5_000] * 10
    assert np.bincount(np.load(out / "labels_test.npy")).tolist() == [1_000] * 10
    measured = normalize.measure(np.load(out / "images_train.npy", mmap_mode="r"))
    assert np.allclose(measured, normalize.NAMED["cifar10"], atol=PUBLISHED_STATISTICS)
    assert info(out)["duplicates"] == {"rule": "error", "dropped": 0, "groups": 0, "repeated_in_train": 0}
    roles = split(out, Roles(val=5_000))
    assert np.bincount(roles.labels("val")).tolist() == [500] * 10
