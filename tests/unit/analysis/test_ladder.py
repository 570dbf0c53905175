"""Rungs from logits: which bounds are asked of which pair, what is allowed to kept answers, and what the two ends say."""

import json

import numpy as np
import pytest
from scipy.special import log_softmax, rel_entr, softmax

from edgekd.analysis import facing, ladder
from edgekd.analysis.facing import Preprocessing
from edgekd.analysis.ladder import Answers
from edgekd.data import normalize
from edgekd.errors import IntegrityError
from tests.tolerances import KL_FLOAT64

LABELS = np.arange(300) % 10
NORM = ((0.49, 0.48, 0.45), (0.25, 0.24, 0.26))


@pytest.fixture
def logits():
    generator = np.random.Generator(np.random.PCG64(2))
    values = generator.normal(0, 2, (300, 10)).astype(np.float32)
    values[np.arange(300), LABELS] += 8
    return values


def noisy(logits, db):
    noise = np.random.Generator(np.random.PCG64(3)).normal(size=logits.shape)
    return logits + noise * np.sqrt((logits**2).mean() / (noise**2).mean()) * 10 ** (-db / 20)


@pytest.mark.parametrize(
    ("scheme", "before", "db", "state"),
    [
        ("none", "none", 110, "ok"),
        ("none", "none", 60, "fails"),
        ("fp16", "none", 60, "ok"),
        ("fp16", "none", 40, "fails"),
        ("u8s8", "none", 30, "ok"),
        ("u8s8", "none", 20, "fails"),
        ("s8-trt", "none", 20, "fails"),
        ("fake_quant", "none", 30, "ok"),
        ("u8s8", "fake_quant", 40, "ok"),
        ("u8s8", "fake_quant", 30, "fails"),
    ],
)
def test_every_pair_is_held_to_its_own_bounds(logits, scheme, before, db, state):
    source = Answers("source", logits, before)
    found = ladder.rung(Answers("made", noisy(logits, db), scheme), source, source, LABELS)
    assert found.state == state, found.failures
    assert (found.name, found.against, found.n) == ("made", "source", 300)
    assert bool(found.failures) == (state == "fails")
    assert found.before["sqnr_db"] == pytest.approx(db, abs=0.01)
    json.dumps(found.json(), allow_nan=False)


@pytest.mark.parametrize(
    ("turned", "state"), [(2, "ok"), (3, "fails")]
)  # 0.1 % of 300 are 0.3; P(more than 2) is 0.4 %
def test_an_image_of_a_few_hundred_is_no_share(logits, turned, state):
    other = logits.astype(float)
    logits[:turned, :2], other[:turned, :2] = [12.0, 11.99], [11.99, 12.0]
    before = Answers("qat", logits, "fake_quant")
    assert ladder.rung(Answers("made", other, "u8s8"), before, before, LABELS).state == state


@pytest.mark.parametrize(("trained", "state"), [(True, "ok"), (False, "fails")])
def test_what_was_trained_rounded_is_not_held_to_its_float_weights(logits, trained, state):
    source = Answers("graph", logits)
    for scheme in ("fake_quant", "u8s8"):
        found = Answers("made", noisy(logits, 20), scheme, trained=trained)
        assert ladder.rung(found, source, source, LABELS).state == state
    assert ladder.rung(Answers("made", noisy(logits, 5), "u8s8", trained=True), source, source, LABELS).state == "fails"


def test_bounds_of_a_target_are_asked(logits):
    source = Answers("source", logits)
    for bounds, state in (({}, "ok"), ({"min_sqnr_db": 35.0, "min_agreement_percent": 98.0}, "fails")):
        found = Answers("made", noisy(logits, 30), "u8s8", bounds)
        assert ladder.rung(found, source, source, LABELS).state == state


def test_what_adds_up_over_rungs_is_seen_against_the_origin(logits):
    origin, before = Answers("torch", logits), Answers("one", noisy(logits, 26), "u8s8")
    after = Answers("two", logits + 1.9 * (before.logits - logits), "u8s8")
    assert ladder.rung(before, origin, origin, LABELS).state == "ok"
    found = ladder.rung(after, before, origin, LABELS)
    assert found.before["sqnr_db"] > 25
    assert (found.state, found.failures[0].partition(":")[0]) == ("fails", "against torch")


def test_answers_kept_in_float16_are_allowed_their_rounding_alone(logits):
    source = Answers("source", logits)
    kept = logits.astype(np.float16).astype(np.float32)
    assert ladder.rung(Answers("kept", kept, stored=True), source, source, LABELS).state == "ok"
    assert ladder.rung(Answers("run now", kept), source, source, LABELS).state == "fails"
    assert ladder.rung(Answers("kept", kept * 1.002, stored=True), source, source, LABELS).state == "fails"


def test_answers_that_are_no_numbers_fail_without_figures(logits):
    broken = logits.copy()
    broken[3, 3] = np.nan
    source = Answers("source", logits)
    found = ladder.rung(Answers("made", broken), source, source, LABELS)
    assert (found.state, found.before) == ("fails", {})
    assert "not finite" in found.failures[0]


def test_kl_is_that_of_scipy(logits):
    other = noisy(logits, 15)
    expected = rel_entr(softmax(logits.astype(float), axis=1), softmax(other, axis=1)).sum(axis=1).mean()
    assert ladder.kl_mean(logits, other) == pytest.approx(expected, rel=KL_FLOAT64)
    assert ladder.kl_mean(logits, logits + 5) == pytest.approx(0, abs=KL_FLOAT64)  # softmax does not see a shift
    np.testing.assert_allclose(ladder._log_softmax(logits), log_softmax(logits.astype(float), axis=1), rtol=KL_FLOAT64)


def test_the_first_rung_that_fails_is_named(logits):
    source = Answers("source", logits)
    rungs = [
        ladder.origin_rung(source, LABELS),
        ladder.Rung("board", "not run"),
        ladder.rung(Answers("bad", -logits), source, source, LABELS),
        ladder.rung(Answers("worse", -2 * logits), source, source, LABELS),
    ]
    assert ladder.first_failing(rungs).name == "bad"
    assert ladder.first_failing(rungs[:2]) is None
    assert rungs[0].top1_percent == 100 * (logits.argmax(axis=1) == LABELS).mean()


# ---- the two ends ----------------------------------------------------------------------------------------------------


@pytest.fixture
def images():
    return np.random.Generator(np.random.PCG64(4)).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)


def test_what_a_right_file_says_is_what_training_feeds(images):
    assert facing.input_fault("here", Preprocessing(*NORM), normalize.apply(images, *NORM), images) == ""


@pytest.mark.parametrize("place", range(len(list(facing.variants(Preprocessing(*NORM))))))
def test_every_usual_mistake_is_off_and_told_from_the_others(images, place):
    wrong = dict(facing.variants(Preprocessing(*NORM)))
    words, mistake = list(wrong.items())[place]
    assert facing.input_fault("here", mistake, normalize.apply(images, *NORM), images).startswith("here: ")
    target = mistake(images).reshape(len(images), -1)
    found = facing.mistaken(
        Preprocessing(*NORM),
        lambda one: one(images).reshape(len(images), -1),
        lambda values: np.allclose(values, target, atol=1e-5),
    )
    assert found == words


def test_another_number_of_channels_is_said(images):
    fault = facing.input_fault("here", Preprocessing((0.5,), (0.5,)), normalize.apply(images, *NORM), images)
    assert "3 channels" in fault


@pytest.mark.parametrize(
    "said", ["", "float32 [batch, height, width, channels]; RGB; (pixel / 255 - mean) / std", "RGB", "pixels"]
)
def test_a_file_that_does_not_say_is_no_guess(said):
    with pytest.raises(IntegrityError, match="says of its input"):
        facing.inside({"input": said, "mean": "[0.5]", "std": "[0.5]"}, "here")


def test_class_names_are_compared_by_place():
    classes = ["cat", "dog", "truck"]
    assert facing.label_fault("here", classes, classes) == ""
    assert "another order: class 1 is 'truck', in the data 'dog'" in facing.label_fault(
        "here", ["cat", "truck", "dog"], classes
    )
    assert "other class names" in facing.label_fault("here", ["cat", "dog", "lorry"], classes)
    assert "2 classes, the data have 3" in facing.label_fault("here", ["cat", "dog"], classes)


def test_another_order_of_outputs_is_found_and_noise_is_none(logits):
    order = np.roll(np.arange(10), 3)
    found = facing.reordered(logits, noisy(logits, 20)[:, order])
    np.testing.assert_array_equal(noisy(logits, 20)[:, order][:, found], noisy(logits, 20))
    assert facing.reordered(logits, noisy(logits, 20)) is None
    assert facing.reordered(logits, np.ones_like(logits)) is None


def test_turned_labels_are_told_from_a_weak_network():
    classes = [str(i) for i in range(10)]
    generator = np.random.Generator(np.random.PCG64(5))
    weak = np.where(generator.random(300) < 0.3, LABELS, generator.integers(0, 10, 300))
    for answers in (LABELS, weak, generator.integers(0, 10, 300), np.zeros(300, np.int64)):
        assert facing.turned_labels(answers, LABELS, classes) == ""
    assert "another order" in facing.turned_labels((LABELS + 1) % 10, LABELS, classes)


def test_the_bounds_of_a_target_are_on_its_source_alone(logits):
    """A file that is exactly its source passes them, whatever the source lost before."""
    origin, source = Answers("graph", logits), Answers("quantized/u8s8", noisy(logits, 42), "u8s8")
    strict = {"min_agreement_percent": 99.9, "min_sqnr_db": 60.0}
    same = Answers("export/mine", source.logits, "u8s8", strict)
    assert ladder.rung(same, source, origin, LABELS).state == "ok"
    other = Answers("export/mine", noisy(source.logits, 50), "u8s8", strict)
    assert ladder.rung(other, source, origin, LABELS).state == "fails"


def test_a_target_may_ask_more_of_half_precision(logits):
    source = Answers("quantized/fp16", logits, "fp16")
    for bounds, state in (({}, "ok"), ({"min_agreement_percent": 99.5, "min_sqnr_db": 70.0}, "fails")):
        found = Answers("export/tensorrt-fp16", noisy(logits, 60), "fp16", bounds)
        assert ladder.rung(found, source, source, LABELS).state == state
