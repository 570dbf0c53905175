"""`edgekd init` on folders made up with every fault in them: what is found, and that the recipe runs on what is left."""

import json
import os

import numpy as np
import pytest
import typer
from make_photos import plant, write_photos
from torchless import torchless
from unit.data.made_up import encode, noise, write_parquet

from edgekd import recipe as recipes
from edgekd.commands import first_recipe
from edgekd.commands.image_facts import WEIGHTS_FROM
from edgekd.commands.init import init
from edgekd.console import Console
from edgekd.data import survey
from edgekd.errors import EdgekdError, RecipeError, UsageError
from edgekd.keys import Settings
from edgekd.pipeline import run, steps_of

CLASSES = ("ant", "bee", "cow")


@pytest.fixture
def photos(tmp_path):
    """60 photos, 30 of ants, 20 of bees, 10 of cows, with every fault planted; and the faults."""
    folder = tmp_path / "photos"
    write_photos(folder, noise(60), [0] * 30 + [1] * 20 + [2] * 10, CLASSES)
    return folder, plant(folder, CLASSES)


def found(folder, capsys, to=None, **options):
    """The document of `edgekd init --json`, and the recipe."""
    to = to or folder.parent / "r.yaml"
    given = {"name": None, "size": None, "force": True, **options}
    init(folder, to, json=True, **given)
    return json.loads(capsys.readouterr().out), recipes.load(to)


def decoded(recipe, tmp_path, recipe_dir, *roots):
    """data.json of the recipe's data, made by the pipeline."""
    settings = Settings(tmp_path / "w", roots, recipe_dir, Console(quiet=True), 1)
    (outcome,) = run(recipe, steps_of(recipe, until="data"), settings)
    return json.loads((outcome.artifact.path / "data.json").read_text()), outcome


def fill(folder, images):
    folder.mkdir(parents=True, exist_ok=True)
    for row, image in enumerate(images):
        (folder / f"{row}.png").write_bytes(encode(image))


def test_every_planted_fault_is_found_and_nothing_else(photos, capsys):
    folder, planted = photos
    facts, _ = found(folder, capsys)
    assert sorted(facts["broken"]) == planted["broken"]
    assert sorted(facts["not_images"]) == planted["not_images"]
    assert facts["copies"] == planted["copies"]
    assert facts["contradicting"] == [planted["contradicting"]]
    assert facts["outside"] == 1
    assert facts["images"] == 60 + 3 and facts["grey"] == 5  # the copies and the picture in another class can be read
    assert facts["classes"] == {"ant": {"all": 31}, "bee": {"all": 21}, "cow": {"all": 11}}
    assert facts["imbalance"]["ratio"] == pytest.approx(31 / 11)
    assert facts["sizes"] == {"smallest": [32, 32], "median": [32, 32], "largest": [48, 48], "different": 3}
    assert set(facts["few"]) == {"bee", "cow"}
    assert facts["schema_version"] == 1 and facts["left_out"] == 5 + 2 + 2 + 2
    says = " ".join(facts["broken"].values())
    for part in ("truncated", "empty", "not an image", "bomb", "I;16"):
        assert part in says


def test_the_recipe_runs_on_what_is_left(photos, capsys, tmp_path):
    folder, _ = photos
    facts, recipe = found(folder, capsys)
    assert recipe.data.args["path"] == "photos"  # below the recipe's folder: both can move together
    info, outcome = decoded(recipe, tmp_path, folder.parent)
    assert sum(info["splits"].values()) == 60 - 1  # all but the picture of which one label is wrong
    assert info["skipped"] == facts["left_out"]
    assert info["duplicates"] == {"rule": "drop_train", "dropped": 0, "groups": 0, "repeated_in_train": 0}
    assert (info["height"], info["channels"]) == (32, 3)
    kept = outcome.artifact.manifest["params"]["args"]
    assert kept == {"skip": recipe.data.args["skip"]}  # in the key by name; the path is not
    assert str(tmp_path) not in json.dumps(outcome.artifact.manifest)


def test_a_listed_file_that_is_gone_and_a_new_broken_one_are_errors(photos, capsys, tmp_path):
    folder, _ = photos
    _, recipe = found(folder, capsys)
    (folder / "ant" / "new.png").write_bytes(b"")
    with pytest.raises(EdgekdError, match=r"new\.png") as broken:
        decoded(recipe, tmp_path, folder.parent)
    assert broken.value.exit_code == 6 and "edgekd init" in broken.value.hint
    (folder / "ant" / "cut.png").unlink()
    with pytest.raises(RecipeError, match=r"ant/cut\.png.* is no file") as gone:
        decoded(recipe, tmp_path, folder.parent)
    assert "data.skip" in gone.value.where


def test_the_path_is_found_from_anywhere(photos, capsys, tmp_path, monkeypatch):
    folder, _ = photos
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    _, beside = found(folder, capsys)
    _, away = found(folder, capsys, tmp_path / "elsewhere" / "r.yaml")
    assert away.data.args["path"] == str(folder)
    one, _ = decoded(beside, tmp_path, folder.parent)
    two, outcome = decoded(away, tmp_path, tmp_path / "elsewhere")
    assert one == two and outcome.state == "reused"  # the content counts, not where it lies
    by_root, outcome = decoded(beside, tmp_path, tmp_path / "elsewhere", folder.parent)
    assert by_root == one and outcome.state == "reused"
    with pytest.raises(RecipeError, match="elsewhere/photos"):
        decoded(beside, tmp_path, tmp_path / "elsewhere")


def test_a_recipe_is_not_written_over_and_nothing_is_looked_at_before(photos, capsys, tmp_path, monkeypatch):
    folder, _ = photos
    to = tmp_path / "r.yaml"
    to.write_text("mine")
    monkeypatch.setattr("edgekd.commands.init.look", lambda *_: pytest.fail("looked at images"))
    with pytest.raises(UsageError, match="exists already") as caught:
        init(folder, to, None, None, False, False)
    assert "--force" in caught.value.hint and to.read_text() == "mine"


def test_split_folders_with_a_val_of_their_own_and_a_picture_in_two_splits(tmp_path, capsys):
    images = noise(60)
    for start, split in ((0, "train"), (40, "valid"), (50, "test")):
        stop = {"train": 40, "valid": 50, "test": 60}[split]
        fill(tmp_path / "photos" / split / "a", images[start:stop:2])
        fill(tmp_path / "photos" / split / "b", images[start + 1 : stop : 2])
    fill(tmp_path / "photos" / "train" / "a" / "more", images[50:51])
    facts, recipe = found(tmp_path / "photos", capsys)
    assert facts["across_splits"] == [["test/a/0.png", "train/a/more/0.png"]]
    assert facts["classes"] == {"a": {"train": 21, "val": 5, "test": 5}, "b": {"train": 20, "val": 5, "test": 5}}
    assert recipe.data.val == 0 and "skip" not in recipe.data.args
    info, _ = decoded(recipe, tmp_path, tmp_path)
    assert info["splits"] == {"train": 40, "val": 10, "test": 10} and info["duplicates"]["dropped"] == 1


def test_parquet_is_read_and_its_rows_are_named(tmp_path, capsys):
    images = noise(30)
    for split, part in (("train", images[:20]), ("test", images[20:])):
        blobs = [encode(image) for image in part]
        write_parquet(
            tmp_path / "pets" / f"{split}-00000-of-00001.parquet", blobs, [row % 2 for row in range(len(part))]
        )
    facts, recipe = found(tmp_path / "pets", capsys)
    assert (facts["kind"], facts["images"], facts["broken"]) == ("parquet", 30, {})
    assert recipe.data.use == "parquet" and recipe.data.val == 2
    info, _ = decoded(recipe, tmp_path, tmp_path)
    assert info["splits"] == {"train": 20, "test": 10}
    blobs = [encode(image) for image in images[20:]]
    write_parquet(tmp_path / "pets" / "test-00000-of-00001.parquet", [b"x", *blobs[1:]], [0, 1] * 5)
    facts, _ = found(tmp_path / "pets", capsys)
    assert list(facts["broken"]) == ["test-00000-of-00001.parquet, row 0"]


def test_class_weights_are_suggested_not_chosen(tmp_path, capsys):
    fill(tmp_path / "photos" / "a", noise(int(5 * WEIGHTS_FROM)))
    fill(tmp_path / "photos" / "b", noise(5, seed=1))
    facts, recipe = found(tmp_path / "photos", capsys)
    assert facts["imbalance"] == {"ratio": WEIGHTS_FROM, "largest": "a", "smallest": "b", "weights_suggested": True}
    text = (tmp_path / "r.yaml").read_text()
    assert text.count("    # class_weights: balanced\n") == 2
    (tmp_path / "r.yaml").write_text(text.replace("# class_weights", "class_weights"))
    assert recipes.load(tmp_path / "r.yaml").student.fit.class_weights == "balanced"
    assert recipe.student.fit.class_weights is None
    fill(tmp_path / "photos" / "b", noise(6, seed=1))
    assert not found(tmp_path / "photos", capsys)[0]["imbalance"]["weights_suggested"]


@pytest.mark.parametrize("line", ["augment", "class_weights"])
def test_what_stands_in_comments_is_valid_too(tmp_path, capsys, line):
    fill(tmp_path / "photos" / "a", noise(40))
    fill(tmp_path / "photos" / "b", noise(5, seed=1))
    found(tmp_path / "photos", capsys)
    lines = (tmp_path / "r.yaml").read_text().splitlines()
    assert any(text.lstrip().startswith(f"# {line}:") for text in lines)
    kept = [text for text in lines if not text.lstrip().startswith(f"{line}:")]
    opened = [
        text.replace(f"# {line}:", f"{line}:") if text.lstrip().startswith(f"# {line}:") else text for text in kept
    ]
    (tmp_path / "r.yaml").write_text("\n".join(opened))
    steps_of(recipes.load(tmp_path / "r.yaml"))


NAMES = ("- a: {x}", "#hash", "'\"\\", "true", "12", "naïve ☕ 🐘", "<b>[red]", "&anchor *alias !tag")


def test_no_name_is_more_than_a_name(tmp_path, capsys):
    for number, name in enumerate(NAMES):
        fill(tmp_path / "my: photos # {x}" / name, noise(3, seed=number))
        (tmp_path / "my: photos # {x}" / name / "0.png").write_bytes(b"")
    facts, recipe = found(tmp_path / "my: photos # {x}", capsys)
    assert recipe.data.args == {"path": "my: photos # {x}", "skip": sorted(f"{name}/0.png" for name in NAMES)}
    assert recipe.name == "my_photos_x" and len(facts["class_names"]) >= 3
    info, _ = decoded(recipe, tmp_path, tmp_path)
    assert info["classes"] == sorted(NAMES)


def test_names_that_surprise_are_pointed_out(tmp_path, capsys):
    for number, name in enumerate(("Cat", "cat", " dog")):
        fill(tmp_path / "photos" / name, noise(3, seed=number))
    said = "; ".join(found(tmp_path / "photos", capsys)[0]["class_names"])
    assert "two classes" in said and "space" in said
    for number in range(11):
        fill(tmp_path / "numbers" / str(number), noise(2, seed=number))
    assert "sorted as words" in "; ".join(found(tmp_path / "numbers", capsys)[0]["class_names"])


def _one_class(folder):
    fill(folder / "a", noise(3))


def _nested(folder):
    fill(folder / "images" / "a", noise(3))
    fill(folder / "images" / "b", noise(3, seed=1))


def _no_test(folder):
    fill(folder / "train" / "a", noise(3))
    fill(folder / "train" / "b", noise(3, seed=1))


def _class_missing_in_test(folder):
    _no_test(folder)
    fill(folder / "test" / "a", noise(3, seed=2))


def _all_broken(folder):
    for name in "ab":
        fill(folder / name, noise(3, seed=ord(name)))
    for file in (folder / "b").iterdir():
        file.write_bytes(b"x")


def _empty_class(folder):
    _nested(folder.parent / "x")
    (folder.parent / "x" / "images").rename(folder)
    (folder / "c").mkdir()
    (folder / "c" / "a.txt").write_text("no image")


def _pixels_in_names(folder):
    fill(folder / "a\nname: evil", noise(3))
    fill(folder / "b", noise(3, seed=1))


def _name_of_bytes(folder):
    fill(folder / "a", noise(3))
    fill(folder / "b", noise(3, seed=1))
    try:
        (folder / "a" / os.fsdecode(b"\xff.png")).write_bytes(b"x")
    except OSError:
        pytest.skip("needs a file system that takes names of any bytes")


HOPELESS = [
    (lambda folder: None, "no such folder", False),
    (lambda folder: folder.mkdir(), "no class folders", False),
    (_one_class, "classes found: a", False),
    (_nested, "one folder alone: images", False),
    (_no_test, "splits found: train", False),
    (_class_missing_in_test, "test has no folder 'b'", False),
    (_empty_class, "a class without images", False),
    (_pixels_in_names, "control characters", False),
    (_name_of_bytes, "no UTF-8", False),
    (_all_broken, "no image of class 'b' can be used", True),
]


@pytest.mark.parametrize(("make", "says", "looks"), HOPELESS, ids=[case[1] for case in HOPELESS])
def test_what_cannot_be_trained_on_is_said_before_work_and_no_recipe_is_written(
    tmp_path, make, says, looks, monkeypatch
):
    make(tmp_path / "photos")
    if not looks:
        monkeypatch.setattr("edgekd.commands.init.look", lambda *_: pytest.fail("looked at images"))
    with pytest.raises(EdgekdError, match=says) as caught:
        init(tmp_path / "photos", tmp_path / "r.yaml", None, None, False, False)
    assert caught.value.exit_code == 2 and not (tmp_path / "r.yaml").exists()
    if says.startswith("one folder"):
        assert caught.value.hint.endswith("photos/images")


def test_what_was_seen_is_told_with_the_error(tmp_path, capsys):
    _all_broken(tmp_path / "photos")
    with pytest.raises(typer.Exit) as stop:
        init(tmp_path / "photos", tmp_path / "r.yaml", None, None, False, True)
    document = json.loads(capsys.readouterr().out)
    assert stop.value.exit_code == 2
    assert document["error"]["reason"] == "recipe" and len(document["broken"]) == 3


@pytest.mark.parametrize(
    ("sides", "size"),
    [
        ([(8, 8)] * 3, 8),
        ([(28, 28)] * 3, 28),
        ([(64, 64)] * 3, 64),
        ([(96, 96)] * 3, 96),
        ([(32, 40), (32, 32), (50, 33)], 32),
        ([(4000, 3000), (3000, 4000)], 128),
        ([(10, 12), (9, 30), (11, 11)], 16),
    ],
)
def test_the_size_follows_the_images(sides, size):
    assert first_recipe.choose_size(sides) == size


@pytest.mark.parametrize("size", [16, 32, 64, 96, 224])
def test_networks_and_epochs_follow_size_and_number(tmp_path, size):
    epochs = []
    for train in (200, 2_000, 50_000):
        wanted = first_recipe.Wanted(
            name="x", file="x.yaml", use="imagefolder", path="x", portable=True, images=train, classes=2, train=train,
            own_val=False, size=size, weighted=None, skip={},
        )  # fmt: skip
        (tmp_path / "x.yaml").write_text(first_recipe.write(wanted))
        recipe = recipes.load(tmp_path / "x.yaml")
        steps_of(recipe)
        epochs.append(recipe.student.fit.epochs)
        assert recipe.data.val == pytest.approx(train / 10)
        assert recipe.teacher.model.startswith("torchvision:") == (size > 64)
    low, high = first_recipe.EPOCHS
    assert epochs == sorted(epochs, reverse=True) and low <= epochs[-1] and epochs[0] <= high


@pytest.mark.parametrize(("options", "says"), [({"size": 2}, "data.size"), ({"name": "../x"}, "name")])
def test_a_wrong_option_names_itself(photos, tmp_path, options, says):
    with pytest.raises(RecipeError, match=says):
        init(photos[0], tmp_path / "r.yaml", json=False, force=False, **{"name": None, "size": None, **options})
    assert not (tmp_path / "r.yaml").exists()


def test_as_a_user_meets_it(photos, monkeypatch):
    folder, planted = photos
    monkeypatch.delenv("EDGEKD_DATA", raising=False)
    done = torchless(folder.parent, "init", "--data", "photos")
    assert done.stdout.rstrip().split("\n")[-1] == "next: edgekd run --recipe photos.yaml"
    assert "\x1b" not in done.stdout and "data.skip" in done.stdout and planted["broken"][0] in done.stdout
    assert recipes.load(folder.parent / "photos.yaml").name == "photos"


def test_more_images_than_wait_for_a_thread_at_a_time():
    blob = encode(noise(1, 4, 4)[0])
    n = survey.CHUNK * survey.WAVE + 5
    items = (survey.Item(str(row), "all", "a", lambda: blob) for row in range(n))
    seen = survey.look(items, n, Console(quiet=True))
    assert [image.name for image in seen] == [str(row) for row in range(n)]
    assert len(survey.equal(seen).copies) == n - 1


def test_a_grey_picture_and_its_rgb_twin_are_equal(tmp_path, capsys):
    grey = noise(1, 16, 16, 1)[0]
    fill(tmp_path / "photos" / "a", [grey, np.repeat(grey, 3, axis=2), *noise(3, 16, 16)])
    fill(tmp_path / "photos" / "b", noise(4, 16, 16, seed=1))
    assert found(tmp_path / "photos", capsys)[0]["copies"] == ["a/1.png"]
