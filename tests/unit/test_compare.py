"""`edgekd compare` on the embedded digits: made of ordinary artifacts, fair, resumable, free when repeated."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.torch import save
from torchless import torchless

from edgekd.commands import budget
from edgekd.commands import compare as command
from edgekd.commands.artifacts import needed
from edgekd.commands.compare import CompareOptions, compare
from edgekd.commands.students import Asked, Students, recorded, rehearsed
from edgekd.console import Console
from edgekd.distillers.kd import KD
from edgekd.errors import IntegrityError, RecipeError, StageFailed, UsageError
from edgekd.fit import loop
from edgekd.report.compared import markdown
from edgekd.store import Store

RECIPE = {
    "name": "tiny",
    "data": {"use": "digits", "train": 96, "val": 40},
    "teacher": {"model": "resnet8", "fit": {"epochs": 1, "batch_size": 32, "lr": 0.1, "device": "cpu"}},
    "student": {"model": "resnet8", "fit": {"epochs": 4, "batch_size": 32, "lr": 0.05, "device": "cpu"}},
    "distill": {"use": "kd"},
}
ROWS = ["ce", "kd", "kd:kd_weight=0"]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    return path


def options(recipe, workspace, **more):
    asked = Asked(str(recipe), workspace, None, more.pop("overrides", None), 1)
    values = {"methods": "ce,kd", "seeds": "2", "epochs": 1, "minutes": None, "select": None, "dry_run": False}
    return CompareOptions(asked, **{**values, "output": None, "json": True, **more})


def ran(capsys, recipe, workspace, **more):
    """The facts of a comparison, and how many students it made."""
    before = {a.id for a in Store(workspace).of("student")}
    compare(options(recipe, workspace, **more))
    return json.loads(capsys.readouterr().out), len({a.id for a in Store(workspace).of("student")} - before)


class Seen:
    """What every fit of a student has started from and been shown."""

    def __init__(self, monkeypatch):
        self.fits = []
        monkeypatch.setattr(loop._Run, "__init__", self.spied(loop._Run.__init__))
        monkeypatch.setattr(loop, "batches", self.spied_batches(loop.batches))

    def spied(self, made):
        def init(run, student, teacher, distiller, data, settings, stack):
            made(run, student, teacher, distiller, data, settings, stack)
            if settings.where == "student":
                weights = {name: value.contiguous() for name, value in run.network.state_dict().items()}
                self.fits.append([settings.fit.epochs, hashlib.sha256(save(weights)).hexdigest()])

        return init

    def spied_batches(self, given):
        def batches(data, size, seed, epoch, device, *more):
            for batch in given(data, size, seed, epoch, device, *more):
                if self.fits:
                    shown = batch.index.numpy().tobytes() + batch.images.contiguous().numpy().tobytes()
                    self.fits[-1].append(hashlib.sha256(shown).hexdigest())
                yield batch

        return batches


@pytest.fixture(scope="module")
def whole(recipe, tmp_path_factory):
    """A workspace with a finished comparison, its facts, and what its students were shown."""
    workspace = tmp_path_factory.mktemp("compare")
    with pytest.MonkeyPatch.context() as patch:
        seen = Seen(patch)
        said = []
        patch.setattr(command.output, "print_json", said.append)
        patch.setattr(command, "rehearsed", lambda *given, **more: 0.0)
        compare(options(recipe, workspace))
    return workspace, json.loads(json.dumps(said[0])), seen.fits


def test_the_facts(whole):
    workspace, facts, _ = whole
    assert [row["method"] for row in facts["methods"]] == ROWS
    assert (facts["n_test"], facts["epochs"], facts["keep"], facts["device"]) == (359, 1, "last", "cpu")
    assert facts["smallest"]["comparisons"] == 1
    for row in facts["methods"]:
        students = [Store(workspace).get(run["artifact"]) for run in row["runs"]]
        shares = [student.metrics["top1_percent"] for student in students]
        assert (
            [student.manifest["params"]["seed"] for student in students] == [0, 1] == [r["seed"] for r in row["runs"]]
        )
        assert [student.manifest["seed"] for student in students] == [0, 1]
        assert row["n"] == 2
        assert row["mean_percent"] == pytest.approx(np.mean(shares))
        assert row["sd_pp"] == pytest.approx(np.std(shares, ddof=1))
        assert row["method_parameters"] == 0 < row["parameters"]
        assert row["epoch_seconds"] > 0 < row["teacher_agreement_percent"]
    kd = facts["methods"][1]
    plain = [run["top1_percent"] for run in facts["methods"][0]["runs"]]
    assert [difference["to"] for difference in kd["differences"]] == ["ce", "kd:kd_weight=0"]
    assert kd["differences"][0]["values_pp"] == pytest.approx(
        [r["top1_percent"] - p for r, p in zip(kd["runs"], plain, strict=True)]
    )
    assert all("verdict" in difference for row in facts["methods"][:2] for difference in row["differences"])
    assert not any("verdict" in difference for difference in facts["methods"][2]["differences"])  # nobody asked


def test_what_is_written(whole):
    workspace, facts, _ = whole
    folder = Path(facts["written"])
    assert folder.parent == workspace / "comparisons"
    written = json.loads((folder / "compare.json").read_text())
    assert written == {"schema_version": 1, **{name: value for name, value in facts.items() if name != "written"}}
    assert (folder / "compare.png").read_bytes().startswith(b"\x89PNG")
    table = (folder / "compare.md").read_text()
    assert table == markdown(facts)
    assert all(f"| {name} |" in table for name in ROWS)
    assert all(run["artifact"].split("/")[1] in table for row in facts["methods"] for run in row["runs"])
    assert "95 % Student-t interval" in table


def test_one_seed_is_one_start_and_one_order_for_every_method(whole):
    _, _, fits = whole
    shown = [fit for fit in fits if fit[0] == 1]
    assert len(shown) == 6 and all(len(fit) == 2 + 3 for fit in shown)  # 96 images: 3 batches
    by_seed = [shown[:3], shown[3:]]
    for of_one in by_seed:
        assert of_one[0] == of_one[1] == of_one[2]
    assert all(first != second for first, second in zip(by_seed[0][0][1:], by_seed[1][0][1:], strict=True))


def test_data_and_teacher_are_made_once(whole):
    store = Store(whole[0])
    assert [len(list(store.of(step))) for step in ("data", "teacher", "student")] == [1, 1, 6]


def test_a_repeated_comparison_is_free(whole, recipe, capsys):
    workspace, facts, _ = whole
    again, made = ran(capsys, recipe, workspace)
    assert made == 0
    assert again == {"schema_version": 1, **facts}
    more, made = ran(capsys, recipe, workspace, methods="kd", seeds="0-2")
    assert made == 3  # the third seed of each row
    assert more["methods"][0]["runs"][:2] == facts["methods"][0]["runs"]


def test_a_repeated_comparison_imports_no_torch(whole, recipe, tmp_path):
    argv = ["-r", recipe, "--methods", "ce,kd", "--seeds", "2", "--epochs", "1", "-w", whole[0], "--threads", "1"]
    done = torchless(tmp_path, "compare", *argv)
    assert "6 made" in done.stderr and "made    " not in done.stderr
    for name in ROWS:
        assert name in done.stdout
    assert (
        "kd: no difference to ce shown (could have seen" in done.stdout
        or "kd: better" in done.stdout
        or "kd: worse" in done.stdout
    )
    assert done.stdout.rstrip().splitlines()[-1].startswith("next: edgekd run")


def test_a_stopped_comparison_goes_on(whole, recipe, tmp_path, capsys, monkeypatch):
    train, trained = Students.student, []

    def stop(self, given):
        if len(trained) == 3:
            raise KeyboardInterrupt
        trained.append(given.student.seed)
        return train(self, given)

    monkeypatch.setattr(Students, "student", stop)
    with pytest.raises(KeyboardInterrupt):
        ran(capsys, recipe, tmp_path)
    assert trained == [0, 0, 0]  # seed by seed: every method has one
    assert len(recorded(tmp_path)) == 3
    monkeypatch.setattr(Students, "student", train)
    facts, made = ran(capsys, recipe, tmp_path)
    assert made == 3
    ids = [[run["artifact"] for run in row["runs"]] for row in facts["methods"]]
    assert ids == [[run["artifact"] for run in row["runs"]] for row in whole[1]["methods"]]


def test_gc_keeps_the_students(whole):
    workspace = whole[0]
    found = Store(workspace).all()
    assert {a.id for a in found} <= needed(workspace, found)
    assert set(recorded(workspace)) <= {a.id for a in found if a.step == "student"}


def test_a_damaged_note_is_named(tmp_path):
    path = tmp_path / "tunings" / "x" / "runs.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"artifacts": 3}')
    with pytest.raises(IntegrityError, match=r"runs\.json"):
        recorded(tmp_path)


def test_a_method_that_cannot_is_named_before_anything_is_trained(recipe, tmp_path, capsys):
    with pytest.raises(RecipeError, match=r"--methods rtk:k=40: distill\.k: k is 40"):
        ran(capsys, recipe, tmp_path, methods="ce,rtk:k=40")
    assert [a.step for a in Store(tmp_path).all()] == []


def test_a_method_that_fails_only_with_the_real_networks_is_named_before_the_first_student(
    recipe, tmp_path, capsys, monkeypatch
):
    def fail(self, context):
        if len(context.labels) > context.classes:  # of the data: before the teacher is trained, it is shown one of each
            raise RecipeError("distill.use", "these two do not go together")

    monkeypatch.setattr(KD, "setup", fail)
    with pytest.raises(RecipeError, match=r"^--methods kd: distill\.use: these two do not go together"):
        ran(capsys, recipe, tmp_path)
    assert sorted(a.step for a in Store(tmp_path).all()) == ["data", "teacher"]


def test_a_student_that_fails_is_named(recipe, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(command, "rehearsed", lambda *given, **more: 0.0)
    with pytest.raises(StageFailed, match=r"method ce, seed 0: student: loss term 'ce' is (nan|inf)"):
        ran(capsys, recipe, tmp_path, overrides=["student.fit.lr=1e30", "student.fit.epochs=2"], epochs=2)


def test_the_plan_is_told_before(whole, recipe, capsys, tmp_path):
    compare(options(recipe, whole[0], dry_run=True, json=False, seeds="5"))
    said = capsys.readouterr().out
    assert "3 methods x 5 seeds, 1 epoch each: 15 students, " in said and " made; about " in said
    assert "to compare with: kd:kd_weight=0" in said
    assert "smallest difference to kd that 5 seeds can show: " in said and "the students made so far" in said
    compare(options(recipe, tmp_path / "fresh", dry_run=True, json=True))
    document = json.loads(capsys.readouterr().out)
    assert document["dry_run"] and [row["made"] for row in document["methods"]] == [0, 0, 0]
    assert document["smallest"]["one_pp"] == pytest.approx(12.7062 * 0.25 * 2**0.5 / 2**0.5, rel=1e-4)
    assert not (tmp_path / "fresh").exists()


def test_the_best_epoch_is_a_stated_option(recipe, whole, capsys):
    facts, made = ran(capsys, recipe, whole[0], select="best", epochs=2, seeds="3", methods="ce")
    assert made == 6  # `kd` beside it
    assert facts["keep"] == "best"
    assert all(run["kept_epoch"] in (1, 2) for row in facts["methods"] for run in row["runs"])
    with pytest.raises(RecipeError, match="keep: best, and no image is held out"):
        ran(capsys, recipe, whole[0], select="best", overrides=["data.val=0"])


def test_a_budget_in_minutes_is_chosen_once(recipe, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(command, "rehearsed", lambda *given, **more: 0.0)
    monkeypatch.setattr(
        budget, "rehearsed", lambda *given: 0.05
    )  # seconds an image: 4.8 of an epoch, 1 of its validation
    minutes = 1.2
    facts, made = ran(capsys, recipe, tmp_path, epochs=None, minutes=minutes, seeds="1")
    assert made == 3
    spent = 3 * (facts["epochs"] * (96 * 0.05 + 40 * 0.025) + 0.025 * (359 + 40))
    assert facts["epochs"] >= 1
    assert 60 * minutes * 0.4 < spent <= 60 * minutes * (1 - budget.RESERVE)

    def forbidden(*given):
        raise AssertionError

    monkeypatch.setattr(budget, "rehearsed", forbidden)
    again, made = ran(capsys, recipe, tmp_path, epochs=None, minutes=minutes, seeds="1")
    assert made == 0 and again == facts
    path = next((tmp_path / "comparisons").glob("*/budget.json"))
    path.write_text('{"epochs": 0}')
    with pytest.raises(IntegrityError, match="budget"):
        ran(capsys, recipe, tmp_path, epochs=None, minutes=minutes, seeds="1")


def test_too_little_time_says_how_much_is_needed(recipe, whole, capsys, monkeypatch):
    monkeypatch.setattr(budget, "rehearsed", lambda *given: 1.0)
    with pytest.raises(UsageError, match="not one epoch of 6 students fits") as caught:
        ran(capsys, recipe, whole[0], epochs=None, minutes=1.0)
    assert "about" in caught.value.expected
    with pytest.raises(UsageError, match="beside --epochs"):
        ran(capsys, recipe, whole[0], epochs=1, minutes=1.0)


def test_epochs_that_fit():
    speeds = [budget.Speed(10, 60), budget.Speed(10, 30)]
    assert budget.fitting(speeds, 2, 1000 / (1 - budget.RESERVE)) == (1000 - 40) // 180
    assert budget.fitting(speeds, 2, 100) == 0


def test_a_rehearsal_keeps_nothing(whole, recipe):
    workspace = whole[0]
    students = Students(options(recipe, workspace).asked.opened(Console(quiet=True))[1])
    given, _ = options(recipe, workspace).asked.opened(Console(quiet=True))
    before = {path: path.stat().st_mtime_ns for path in workspace.rglob("*")}
    assert 0 < rehearsed(students, given, 2, compiled=False) < 10
    assert {path: path.stat().st_mtime_ns for path in workspace.rglob("*")} == before


def test_torchrun_is_refused(recipe, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="torchrun"):
        ran(capsys, recipe, tmp_path)
