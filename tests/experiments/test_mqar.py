# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""MQAR: examples made by hand from the benchmark's definition, and its properties."""

import numpy as np
import pytest

from experiments.tasks.mqar.generator import draw_examples
from experiments.tasks.mqar.task import MQARConfig
from tests.helpers.models import small_task


def draw(count, seed=0, **changes):
    config = small_task(**({"vocab_size": 64, "seq_len": 32, "num_kv_pairs": 4} | changes))
    return draw_examples(np.random.default_rng(seed), config, count)


class Scripted:
    """A generator of random numbers that draws what a person wrote down."""

    def __init__(self, keys, values, rings):
        self.integer_draws = [*keys, *values]
        self.rings = np.array([rings])

    def integers(self, low, high, size):
        drawn = self.integer_draws.pop(0)
        assert size == 1 and low <= drawn < high
        return np.array([drawn])

    def permuted(self, x, axis):
        assert axis == 1
        return x

    def exponential(self, size):
        assert self.rings.shape == size
        return self.rings


# Vocabulary 12: keys 1..5, values 6..11. Two pairs in 12 places leave four slots, 4, 6, 8, 10.
# Draws: keys (0-based), values (0-based), when slots ring.
HAND_MADE = [
    (
        ([2, 0], [1, 5], [0.001, 9, 9, 0.1]),
        # key 3 -> value 7, key 1 -> value 11; key 3 asked in slot 0, key 1 in slot 3
        [3, 7, 1, 11, 3, 0, 0, 0, 0, 0, 1, 0],
        {4: 7, 10: 11},
    ),
    (
        ([3, 3], [0, 2], [9, 0.1, 0.001, 9]),
        # the second key would be the first again, so it is the last: key 4 -> 6, key 5 -> 8;
        # key 5 is asked first
        [4, 6, 5, 8, 0, 0, 5, 0, 4, 0, 0, 0],
        {6: 8, 8: 6},
    ),
]


@pytest.mark.parametrize(("draws", "inputs", "answers"), HAND_MADE)
def test_examples_made_by_hand(draws, inputs, answers):
    config = MQARConfig(vocab_size=12, seq_len=12, num_kv_pairs=2)
    example = {k: v[0] for k, v in draw_examples(Scripted(*draws), config, 1).items()}
    assert example["inputs"].tolist() == inputs
    assert example["weights"].tolist() == [float(i in answers) for i in range(12)]
    assert {i: example["targets"][i] for i in answers} == answers


def test_every_key_is_asked_once_at_an_even_place_for_its_own_value():
    for example in rows(draw(50)):
        inputs, targets, weights = (example[k] for k in ("inputs", "targets", "weights"))
        pairs = dict(zip(inputs[0:8:2], inputs[1:8:2], strict=True))
        assert len(pairs) == 4 and len(set(pairs.values())) == 4
        assert all(1 <= key < 32 <= value < 64 for key, value in pairs.items())
        places = np.flatnonzero(weights)
        assert len(places) == 4 and (places >= 8).all() and (places % 2 == 0).all()
        assert {inputs[p]: targets[p] for p in places} == pairs
        blanks = np.setdiff1d(np.arange(8, 32), places)
        assert (inputs[blanks] == 0).all()


def test_keys_and_values_are_drawn_uniformly():
    examples = draw(4000)
    for place, ids in ((0, 31), (6, 31), (1, 32), (7, 32)):
        counts = np.bincount(examples["inputs"][:, place])
        assert (counts > 0).sum() == ids
        assert counts[counts > 0].min() > 0.6 * 4000 / ids
        assert counts.max() < 1.4 * 4000 / ids


def test_queries_come_as_the_power_law_says():
    """Slot i has weight (i + 1)^(a - 1), without replacement; numpy's sequential draws beside."""
    asked = draw(4000, num_kv_pairs=3)["weights"][:, 6::2].mean(axis=0)
    weights = np.arange(1, 14) ** -0.99
    rng, wanted = np.random.default_rng(1), np.zeros(13)
    for _ in range(4000):
        wanted[rng.choice(13, 3, replace=False, p=weights / weights.sum())] += 1 / 4000
    np.testing.assert_allclose(asked, wanted, atol=0.04)
    first = draw(4000, num_kv_pairs=1)["weights"][:, 2].mean()
    weights = np.arange(1, 16) ** -0.99
    assert first == pytest.approx(weights[0] / weights.sum(), abs=0.03)


def test_the_order_of_queries_is_not_that_of_pairs():
    """The first key is asked earliest, as its slot is drawn first; but not always."""
    earliest = [np.argmax(e["inputs"][8:] > 0) + 8 for e in rows(draw(2000))]
    examples = draw(2000)["inputs"]
    share = np.mean(examples[np.arange(2000), earliest] == examples[:, 0])
    assert 0.3 < share < 0.6


def test_examples_depend_on_the_seed_alone():
    assert (draw(3)["inputs"] == draw(3)["inputs"]).all()
    assert (draw(3)["inputs"] != draw(3, seed=1)["inputs"]).any()


def test_random_non_queries_fill_the_blanks():
    example = rows(draw(1, random_non_queries=True))[0]
    blanks = np.flatnonzero(example["weights"] == 0)[8:]
    assert len(set(example["inputs"][blanks])) > 5


def test_training_and_evaluation_do_not_share_examples():
    task = small_task(num_train_examples=300, num_eval_examples=300, vocab_size=256).make()
    train = {tuple(e["inputs"]) for b in [next(iter(task.train_dataset(300)))] for e in rows(b)}
    held_out = {tuple(e["inputs"]) for e in task.eval_dataset()}
    assert len(train) == 300 and not train & held_out


def rows(batch):
    return [{k: v[i] for k, v in batch.items()} for i in range(len(batch["inputs"]))]


def test_epochs_are_shuffled_differently_and_complete():
    data = iter(small_task(num_train_examples=20).make().train_dataset(20))
    first, second = next(data)["inputs"], next(data)["inputs"]
    assert (first != second).any()
    assert sorted(map(tuple, first)) == sorted(map(tuple, second))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocab_size": 63}, "vocab_size: wanted an even number"),
        ({"vocab_size": 8}, "vocab_size: wanted an even number with at least num_kv_pairs = 4"),
        ({"seq_len": 14}, "seq_len: wanted an even number of at least 4 num_kv_pairs = 16, got 14"),
        ({"num_kv_pairs": 0}, "num_kv_pairs: wanted at least 1, got 0"),
        ({"power_a": 0.0}, "power_a: wanted more than 0, got 0.0"),
    ],
)
def test_impossible_settings_are_refused(change, message):
    values = {"vocab_size": 64, "seq_len": 32, "num_kv_pairs": 4} | change
    with pytest.raises(ValueError, match=message):
        MQARConfig(**values)


def test_as_many_predictions_of_a_row_count_as_there_are_pairs():
    task = small_task(num_kv_pairs=3, seq_len=16).make()
    assert task.predictions_per_row == 3
    batch = next(iter(task.train_dataset(8)))
    assert ((batch["weights"] > 0).sum(axis=1) == 3).all()
