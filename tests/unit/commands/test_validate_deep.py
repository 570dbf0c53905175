"""`edgekd recipes validate --deep`: what can be known of the images before they are decoded is known to the checks."""

import pytest

from edgekd.commands import recipes
from edgekd.errors import RecipeError
from edgekd.stages import qat

SIDE = 8  # of the digits


def test_a_network_that_qat_cannot_round_is_refused_before_the_data_are_made(monkeypatch, capsys):
    asked = []

    def refuse(params, draft, channels, size):
        asked.append((params.model, size))
        raise RecipeError("qat", "a rounding is not found")

    monkeypatch.setattr(qat, "_try_placement", refuse)
    with pytest.raises(RecipeError, match="a rounding is not found"):
        recipes.validate("quickstart", ["qat.epochs=2"], True, [], False)
    assert asked == [("resnet8", (SIDE, SIDE))]
    recipes.validate("quickstart", ["qat.epochs=2"], False, [], False)  # networks are not built without --deep
    assert "valid" in capsys.readouterr().out
