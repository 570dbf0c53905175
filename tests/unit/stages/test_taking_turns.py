"""The driver of contenders: who works when, for how long, and what is left when one of them fails."""

import json
import sys
import textwrap
from collections import Counter

import numpy as np
import pytest

from edgekd.errors import MeasurementVoid, MissingTool, StageFailed, UsageError
from edgekd.stages.contenders import Contender, Spoken, Started
from edgekd.stages.turns import Rounds, all_ready, take_turns


class Told(Contender):
    """Answers every query with one duration; writes down what is asked of it."""

    def __init__(self, name, ms, fails=False):
        self.name, self.ns, self.fails, self.heard = name, int(ms * 1e6), fails, []

    def ready(self):
        self.heard.append("ready")
        if self.fails:
            raise StageFailed(self.name, "does not start")

    def step(self, n):
        self.heard.append(n)
        return {"end_to_end": np.full(n, self.ns, np.int64)}

    def finish(self):
        self.heard.append("finish")

    def stop(self):
        self.heard.append("stop")


def test_blocks_last_equally_long_and_every_one_works_in_every_round():
    fast, slow = Told("fast", 1), Told("slow", 5)
    rounds = take_turns([fast, slow], 10, block_seconds=0.25)
    assert rounds.queries == {"fast": 250, "slow": 50}
    assert len(rounds.orders) == 40
    assert all(sorted(order) == ["fast", "slow"] for order in rounds.orders)
    assert {len(blocks) for blocks in rounds.blocks.values()} == {40}
    firsts = Counter(order[0] for order in rounds.orders)
    assert min(firsts.values()) >= 10  # drawn anew, not always the same one first


def test_sittings_share_the_rounds_and_keep_their_blocks_as_long():
    one, rounds = Told("a", 1), Rounds({"a": []})
    for _ in range(6):
        take_turns([one], 10, before=rounds, share=6)
        one.ns *= 2  # another process, another speed
    assert len(rounds.orders) == len(rounds.blocks["a"]) == 42
    assert Counter(rounds.sittings) == dict.fromkeys(range(6), 7)
    assert {len(block["end_to_end"]) for block in rounds.blocks["a"]} == {250}


def test_the_order_is_the_seeds():
    def orders(seed):
        return take_turns([Told("a", 1), Told("b", 1), Told("c", 1)], 5, seed).orders

    assert orders(1) == orders(1) != orders(2)


def test_a_slow_program_still_gets_the_rounds_and_queries_that_an_interval_needs():
    rounds = take_turns([Told("slow", 900), Told("fast", 1)], 1, block_seconds=0.25)
    assert rounds.queries["slow"] == 1
    assert len(rounds.orders) == 64


def test_whatever_happens_none_outlives_the_block():
    first, second, third = Told("a", 1), Told("b", 1, fails=True), Told("c", 1)
    with pytest.raises(StageFailed), all_ready([first, second, third]):
        pytest.fail("one of them did not start")
    assert first.heard == ["ready", "stop"]
    assert second.heard == ["ready", "stop"]
    assert third.heard == []


def speaker(tmp_path, body):
    """A process whose turns are `body(n)`."""
    path = tmp_path / "speaker.py"
    path.write_text(
        textwrap.dedent(
            """
            import json, sys
            print(json.dumps({"ready": True}), flush=True)
            for line in sys.stdin:
                word, _, n = line.strip().partition(" ")
                if word == "finish":
                    break
                n = int(n)
            """
        )
        + textwrap.indent(textwrap.dedent(body), "    ")
    )
    return [sys.executable, str(path)]


VOID = """
print(json.dumps({"ns": [5] * n, "void": ["it throttled"]}), flush=True)
"""


def test_a_machine_that_throttles_in_any_sitting_voids_the_run(tmp_path):
    one = Spoken("one", speaker(tmp_path, VOID))
    with pytest.raises(MeasurementVoid, match="it throttled"), all_ready([one]):
        one.step(4)


GOOD = """
print(json.dumps({"ns": [5] * n, "parts": {"inference": [3] * n}}), flush=True)
"""


def test_a_process_is_told_and_heard(tmp_path):
    one = Spoken("one", speaker(tmp_path, GOOD))
    with all_ready([one]):
        block = one.step(4)
        assert {part: values.tolist() for part, values in block.items()} == {
            "end_to_end": [5] * 4,
            "inference": [3] * 4,
        }
        one.finish()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("print('hello', flush=True)", "hello"),
        ("print(json.dumps([1]), flush=True)", "[1]"),
        ("print(json.dumps({'ns': [5]}), flush=True)", "other counts"),
        ("sys.stderr.write('out of cheese\\n'); sys.exit(9)", "exit code 9: out of cheese"),
        ("import os; os.kill(os.getpid(), 9)", "killed by signal 9"),
    ],
)
def test_a_process_that_misbehaves_is_named(tmp_path, body, words):
    one = Spoken("one", speaker(tmp_path, body))
    with pytest.raises(StageFailed) as error, all_ready([one]):
        one.step(4)
    assert error.value.where == "one"
    assert words in error.value.found


def test_its_own_exit_code_is_understood(tmp_path):
    def understand(code, err):
        return UsageError("runner", json.loads(err)["found"] + f" {code}")

    body = "sys.stderr.write(json.dumps({'found': 'no'})); sys.exit(2)"
    one = Spoken("one", speaker(tmp_path, body), understand=understand)
    with pytest.raises(UsageError, match="no 2"), all_ready([one]):
        one.step(1)


def test_a_program_that_is_not_there_is_a_missing_tool():
    with pytest.raises(MissingTool), all_ready([Spoken("one", ["/no/such/program"])]):
        pytest.fail("it cannot be ready")


def test_no_process_is_left_behind(tmp_path):
    one = Spoken("one", speaker(tmp_path, GOOD))
    with pytest.raises(KeyboardInterrupt), all_ready([one]):
        child = one._child
        raise KeyboardInterrupt
    assert child.returncode is not None


def test_a_program_of_one_figure_a_block_takes_turns_too():
    asked = []
    one = Started("app", lambda n: asked.append(n) or 2e6)
    rounds = take_turns([one, Told("b", 1)], 1)
    assert {int(block["end_to_end"][0]) for block in rounds.blocks["app"]} == {2_000_000}
    assert set(asked[1:]) == {rounds.queries["app"]}
