"""What a tuning varies, as typed."""

import pytest

from edgekd.errors import UsageError
from edgekd.search import Parameter, read


class Fixed:
    """A trial that always asks for the same share of a range."""

    def suggest_float(self, name, low, high, *, log=False):
        return (low * high) ** 0.5 if log else (low + high) / 2

    def suggest_int(self, name, low, high):
        return high

    def suggest_categorical(self, name, choices):
        return choices[-1]


def test_ranges():
    found = read(
        ["distill.beta=log:5..500", "a=float:-1..1e3", "distill.k=int:2..9", "distill.select=choice:topk, all"]
    )
    assert found == (
        Parameter("distill.beta", "log", 5, 500),
        Parameter("a", "float", -1, 1000),
        Parameter("distill.k", "int", 2, 9),
        Parameter("distill.select", "choice", choices=("topk", "all")),
    )
    assert [p.suggested(Fixed()) for p in found] == [
        "distill.beta=50.0",
        "a=499.5",
        "distill.k=9",
        "distill.select=all",
    ]
    assert [p.first for p in found] == ["distill.beta=5.0", "a=-1.0", "distill.k=2", "distill.select=topk"]


def test_a_number_is_short_and_inside():
    assert Parameter("a", "log", 1 / 3, 1 / 3 + 1e-9).suggested(Fixed()) == f"a={1 / 3!r}"
    assert Parameter("a", "float", 0, 2 / 3).suggested(Fixed()) == "a=0.3333"


@pytest.mark.parametrize(
    "text",
    ["a", "a=5..6", "a=log:0..5", "a=log:5..5", "a=int:1.5..3", "a=choice:one", "a=float:nan..1", "a=float:0..inf", "1a=int:1..2", "=int:1..2", "a=int:9..2", "a=int:3"],
)  # fmt: skip
def test_a_mistyped_range_is_refused(text):
    with pytest.raises(UsageError, match="--param") as caught:
        read([text])
    assert caught.value.exit_code == 2


def test_a_key_stands_once():
    with pytest.raises(UsageError, match="twice"):
        read(["a=int:1..2", "a=int:3..4"])
