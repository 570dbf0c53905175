"""Every shipped recipe trains teacher and student for two steps, on made-up data of its data set's shape."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from networks import seeded, settled
from torch.optim.optimizer import register_optimizer_step_post_hook
from unit.data.made_up import encode, noise

from edgekd import models, registry
from edgekd import recipe as recipes
from edgekd.commands.find_recipe import shipped_recipes
from edgekd.console import Console
from edgekd.keys import Settings
from edgekd.pipeline import run, steps_of

STEPS, BATCH = 2, 4
EMBEDDED = ("digits",)
LABEL_COLUMNS = {"cifar100": ("fine_label", "coarse_label")}  # the first one counts; all other sets: `label`


def write_parquet(folder, expected, columns):
    """`train` and `test` as Hugging Face ships the set: an image of each class to train on, a few to test on."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    names = [f"class {label}" for label in range(expected.classes)]
    features = {column: {"names": names, "_type": "ClassLabel"} for column in columns}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    fields = [("img", kind), *((column, pa.int64()) for column in columns)]
    folder.mkdir(parents=True)
    for split, n, seed in (("train", max(expected.classes, STEPS * BATCH), 0), ("test", BATCH, 1)):
        images = noise(n, expected.height, expected.width, expected.channels, seed)
        labels = np.arange(n) % expected.classes
        cells = pa.array([{"bytes": encode(image), "path": None} for image in images], kind)
        table = pa.table(
            [cells, *(pa.array(labels // 5**i) for i in range(len(columns)))],
            schema=pa.schema(fields, metadata=metadata),
        )
        pq.write_table(table, folder / f"{split}-00000-of-00001.parquet")


def make_data(recipe, root):
    """The files that the recipe's data set is read from; gives its shape."""
    expected = registry.construct("data", recipe.data.use, recipe.data.args).expected
    if recipe.data.use not in EMBEDDED:
        write_parquet(root / recipe.data.use, expected, LABEL_COLUMNS.get(recipe.data.use, ("label",)))
    return expected


def overrides(recipe):
    """Two steps of each network that is fitted, on the CPU, uncompiled; an import of made-up weights has no known top-1."""
    given = [f"data.train={STEPS * BATCH}", "data.val=0"]
    for section in ("teacher", "student"):
        part = getattr(recipe, section)
        if part is not None and part.fit is not None:
            short = {"epochs": 1, "batch_size": BATCH, "device": "cpu", "compile": "false"}
            given += [f"{section}.fit.{key}={value}" for key, value in short.items()]
        if part is not None and part.expect_top1 is not None:
            given.append(f"{section}.expect_top1=null")
    return given


def write_checkpoint(section, expected, root):
    """Weights of the right network, under the name that the recipe gives."""
    size = (expected.height, expected.width)
    network = models.build(section.model, classes=expected.classes, channels=expected.channels, size=size)
    shown = torch.randn(8, expected.channels, *size, generator=seeded())
    settled(network, shown, seeded())  # a trained one's maps fit float16, in which views are stored
    torch.save({"state_dict": network.state_dict()}, root / section.checkpoint)


@pytest.fixture
def steps_taken():
    """Grows by one at every optimizer step."""
    seen = []
    hook = register_optimizer_step_post_hook(lambda *_: seen.append(1))
    yield seen
    hook.remove()


def test_there_are_recipes_and_all_pairs_of_the_literature():
    pairs = ("resnet56_to_resnet20", "wrn40_2_to_wrn16_2", "resnet110_to_resnet32", "resnet32x4_to_resnet8x4")
    assert {"quickstart", *pairs, *(f"cifar100_{pair}" for pair in pairs)} <= set(shipped_recipes())


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_a_shipped_recipe_trains_teacher_and_student(name, tmp_path, steps_taken):
    path = shipped_recipes()[name]
    recipe = recipes.load(path, overrides(recipes.load(path)))
    expected = make_data(recipe, tmp_path)
    fitted = [part for part in (recipe.teacher, recipe.student) if part is not None and part.fit is not None]
    for part in (recipe.teacher, recipe.student):
        if part is not None and part.checkpoint is not None:
            write_checkpoint(part, expected, tmp_path)
    settings = Settings(tmp_path / "w", (tmp_path,), path.parent, Console(quiet=True), 1)
    made = {o.step.name: o.artifact for o in run(recipe, steps_of(recipe, until="student"), settings)}
    assert len(steps_taken) == STEPS * len(fitted) > 0
    for step in ("teacher", "student"):
        if getattr(recipe, step) in fitted:
            (row,) = json.loads((made[step].path / "history.json").read_text())
            assert np.isfinite(row["loss"])


@pytest.mark.parametrize("name", sorted(n for n in shipped_recipes() if "_to_" in n and not n.endswith("_96")))
def test_a_pair_of_the_literature_follows_its_protocol(name):
    """240 epochs of SGD, batch 64, lr 0.05 divided by 10 after epochs 150, 180, 210, weight decay 5e-4."""
    recipe = recipes.load(shipped_recipes()[name])
    for part in (recipe.teacher, recipe.student):
        fit = part.fit
        assert (fit.epochs, fit.batch_size, fit.optimizer, fit.lr, fit.weight_decay) == (240, 64, "sgd", 0.05, 5e-4)
        assert (fit.schedule, fit.milestones, fit.warmup, fit.label_smoothing) == ("step", None, 0, 0)
    source = registry.construct("data", recipe.data.use, {})
    assert source.augment == ("crop4", "flip") and recipe.data.augment is None and recipe.data.val == 0
    assert name.startswith("cifar100") == (recipe.data.use == "cifar100")
    assert name.endswith(f"{_short(recipe.teacher.model)}_to_{_short(recipe.student.model)}")


def _short(model):
    """wrn_40_2 -> wrn40_2, as recipes are called."""
    return model.replace("wrn_", "wrn")
