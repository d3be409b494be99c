# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""State tracking: sequences by hand, states by other definitions, lengths and chance."""

import itertools
import math

import numpy as np
import pytest

from experiments.tasks.state_tracking.problems import PROBLEMS, composition_table
from experiments.tasks.state_tracking.task import StateTrackingConfig
from tests.helpers.held_out import held_out

SMALL = {"seq_len": 12, "num_train_examples": 50, "num_eval_examples": 200}


def draw(problem, shape=(60, 21)):
    return PROBLEMS[problem].draw(np.random.default_rng(0), shape)


class Scripted:
    def __init__(self, *draws):
        self.draws = list(draws)

    def integers(self, low, high, size, dtype=None):
        drawn = np.array(self.draws.pop(0))
        assert drawn.shape == size and drawn.min() >= low and drawn.max() < high
        return drawn


def test_parity_by_hand():
    inputs, targets, counted = PROBLEMS["parity"].draw(Scripted([[1, 0, 1, 1, 0]]), (1, 5))
    assert inputs.tolist() == [[1, 0, 1, 1, 0]]
    assert targets.tolist() == [[1, 1, 0, 1, 1]]
    assert counted.all()


def test_s3_by_hand():
    """Elements in lexicographic order: 012, 021, 102, 120, 201, 210.

    021 and then 102: thing 0 goes to 0 and then 1, thing 1 to 2 and 2, thing 2 to 1 and 0: 120.
    Then 120: 0 to 1 to 2, 1 to 2 to 0, 2 to 0 to 1: 201.
    """
    _, targets, _ = PROBLEMS["s3"].draw(Scripted([[1, 2, 3]]), (1, 3))
    assert targets.tolist() == [[1, 3, 4]]


def test_arithmetic_by_hand():
    """2 * 3 - 4 * 4 + 1: 2, 6, 2, -10, -9 modulo 5."""
    script = Scripted([[2, 0, 3, 0, 4, 0, 4, 0, 1]], [[2, 1, 2, 0]])
    inputs, targets, counted = PROBLEMS["modular_arithmetic"].draw(script, (1, 9))
    assert inputs.tolist() == [[2, 7, 3, 6, 4, 7, 4, 5, 1]]
    assert targets[0, ::2].tolist() == [2, 1, 2, 0, 1]
    assert counted.tolist() == [[True, False] * 4 + [True]]


def test_parity_is_the_sum():
    inputs, targets, _ = draw("parity")
    assert (targets == np.cumsum(inputs, axis=1) % 2).all()


@pytest.mark.parametrize(("problem", "size"), [("s3", 3), ("s5", 5)])
def test_permutations_are_products_of_matrices(problem, size):
    inputs, targets, _ = draw(problem)
    elements = [np.eye(size, dtype=int)[list(p)].T for p in itertools.permutations(range(size))]
    for sequence, states in zip(inputs[:20], targets[:20], strict=True):
        product = np.eye(size, dtype=int)
        for element, state in zip(sequence, states, strict=True):
            product = elements[element] @ product
            assert (product == elements[state]).all()


@pytest.mark.parametrize("size", [2, 3, 5])
def test_composition_tables_are_groups(size):
    table = composition_table(size)
    n = math.factorial(size)
    assert (table[0] == np.arange(n)).all() and (table[:, 0] == np.arange(n)).all()
    assert (np.sort(table, axis=0) == np.arange(n)[:, None]).all()
    a, b, c = np.random.default_rng(0).integers(0, n, (3, 500))
    assert (table[table[a, b], c] == table[a, table[b, c]]).all()
    assert (table == table.T).all() == (size == 2)


def value(symbols):
    """Of digits and operators as text: products first, then sums."""
    total = 0
    for term in symbols.replace("-", "+-").split("+"):
        sign = -1 if term.startswith("-") else 1
        total += sign * math.prod(map(int, term.removeprefix("-").split("*")))
    return total % 5


def test_arithmetic_is_evaluated_as_written():
    inputs, targets, counted = draw("modular_arithmetic", (100, 20))
    assert set(np.unique(inputs)) == set(range(8))
    for sequence, values, places in zip(inputs, targets, counted, strict=True):
        text = "".join("01234+-*"[i] for i in sequence)
        for t in np.flatnonzero(places):
            assert values[t] == value(text[: t + 1])
        assert places.sum() == 10


@pytest.mark.parametrize("problem", PROBLEMS)
def test_held_out_sequences_are_longer_and_begin_otherwise(problem):
    config = StateTrackingConfig(problem=problem, **SMALL)
    task = config.make()
    batch = next(iter(task.train_dataset(50)))
    assert batch["inputs"].shape == (50, 12)
    longer = held_out(task)["inputs"]
    assert longer.shape == (200, 96)
    assert not {r.tobytes() for r in batch["inputs"]} & {r[:12].tobytes() for r in longer}
    assert longer.max() < config.vocab_size


def test_where_all_sequences_are_trained_on_none_can_be_held_out():
    config = StateTrackingConfig(seq_len=2, num_train_examples=200, num_eval_examples=2)
    with pytest.raises(ValueError, match="^num_train_examples: wanted few enough that 2 others"):
        config.make()


@pytest.mark.parametrize(("problem", "chance"), [("parity", 1 / 2), ("s3", 1 / 6), ("s5", 1 / 120)])
def test_guesses_score_chance_at_every_length(problem, chance):
    task = StateTrackingConfig(problem=problem, **SMALL).make()
    examples = held_out(task)
    guesses = np.random.default_rng(0).integers(0, round(1 / chance), examples["inputs"].shape)
    scores = task.score(examples, guesses)
    lengths = [f"accuracy_{factor}x" for factor in (1, 2, 4, 8)]
    assert list(scores) == [*lengths, "validation_accuracy_8x"]
    assert all(score == pytest.approx(chance, abs=0.03) for score in scores.values())


def test_a_tracker_that_loses_count_after_the_training_length_is_found_out():
    task = StateTrackingConfig(**SMALL).make()
    examples = held_out(task)
    predictions = examples["targets"].copy()
    predictions[:, 12:] = 1 - predictions[:, 12:]
    predictions[:, 48:50] = examples["targets"][:, 48:50]
    scores = task.score(examples, predictions)
    assert scores == {
        "accuracy_1x": 1.0,
        "accuracy_2x": 0.0,
        "accuracy_4x": 0.0,
        "accuracy_8x": pytest.approx(2 / 48),
        "validation_accuracy_8x": pytest.approx(2 / 48),
    }


def test_one_half_is_the_test_the_other_validates():
    task = StateTrackingConfig(**SMALL).make()
    examples = held_out(task)
    predictions = examples["targets"].copy()
    predictions[100:] = 1 - predictions[100:]
    scores = task.score(examples, predictions)
    assert scores.pop("validation_accuracy_8x") == 0.0 and set(scores.values()) == {1.0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"problem": "s4"}, "problem: wanted one of"),
        ({"seq_len": 0}, "seq_len: wanted at least 1, got 0"),
        ({"num_train_examples": 0}, "num_train_examples: wanted at least 1, got 0"),
        ({"num_eval_examples": 1}, "num_eval_examples: wanted at least 2, got 1"),
    ],
)
def test_impossible_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        StateTrackingConfig(**change)
