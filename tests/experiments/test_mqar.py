# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""MQAR: examples made by hand from the benchmark's definition, and its properties."""

import collections

import numpy as np
import pytest

from experiments.tasks.mqar.generator import MQARSource
from experiments.tasks.mqar.task import MQARConfig
from tests.helpers.models import small_task


def source(**changes):
    values = {
        "vocab_size": 64,
        "seq_len": 32,
        "num_kv_pairs": 4,
        "num_examples": 500,
        "power_a": 0.01,
        "random_non_queries": False,
        "seed": (0,),
    }
    return MQARSource(**(values | changes))


class Scripted:
    """A generator of random numbers that draws what a person wrote down."""

    def __init__(self, draws):
        self.draws = collections.deque(draws)

    def choice(self, n, size, replace, p=None):
        assert not replace
        wanted_n, drawn = self.draws.popleft()
        assert (n, size) == (wanted_n, len(drawn))
        return np.array(drawn)


# Vocabulary 12: keys 1..5, values 6..11. Two pairs in 12 places leave four slots, 4, 6, 8, 10.
# Draws: keys (0-based), values (0-based), slots.
HAND_MADE = [
    (
        [(5, [2, 0]), (6, [1, 5]), (4, [0, 3])],
        # key 3 -> value 7, key 1 -> value 11; key 3 asked in slot 0, key 1 in slot 3
        [3, 7, 1, 11, 3, 0, 0, 0, 0, 0, 1, 0],
        {4: 7, 10: 11},
    ),
    (
        [(5, [4, 1]), (6, [0, 2]), (4, [2, 1])],
        # key 5 -> value 6, key 2 -> value 8; key 2 is asked first
        [5, 6, 2, 8, 0, 0, 2, 0, 5, 0, 0, 0],
        {6: 8, 8: 6},
    ),
]


@pytest.mark.parametrize(("draws", "inputs", "answers"), HAND_MADE)
def test_examples_made_by_hand(monkeypatch, draws, inputs, answers):
    monkeypatch.setattr(np.random, "default_rng", lambda seed: Scripted(draws))
    example = source(vocab_size=12, seq_len=12, num_kv_pairs=2)[0]
    assert example["inputs"].tolist() == inputs
    assert example["weights"].tolist() == [float(i in answers) for i in range(12)]
    assert {i: example["targets"][i] for i in answers} == answers


def test_every_key_is_asked_once_at_an_even_place_for_its_own_value():
    for i in range(50):
        example = source()[i]
        inputs, targets, weights = (example[k] for k in ("inputs", "targets", "weights"))
        pairs = dict(zip(inputs[0:8:2], inputs[1:8:2], strict=True))
        assert len(pairs) == 4 and len(set(pairs.values())) == 4
        assert all(1 <= key < 32 <= value < 64 for key, value in pairs.items())
        places = np.flatnonzero(weights)
        assert len(places) == 4 and (places >= 8).all() and (places % 2 == 0).all()
        assert {inputs[p]: targets[p] for p in places} == pairs
        blanks = np.setdiff1d(np.arange(8, 32), places)
        assert (inputs[blanks] == 0).all()


def test_queries_come_early_as_the_power_law_says():
    """Slot i has weight (i + 1)^(a - 1): the first is drawn about as often as simulated."""
    examples = source(num_kv_pairs=1, seq_len=32, num_examples=4000)
    first = np.mean([examples[i]["weights"][2] for i in range(2000)])
    weights = np.arange(1, 16) ** -0.99
    assert first == pytest.approx(weights[0] / weights.sum(), abs=0.04)


def test_examples_depend_on_index_and_stream_alone():
    a, b = source(), source()
    assert (a[7]["inputs"] == b[7]["inputs"]).all()
    assert (a[7]["inputs"] != a[8]["inputs"]).any()
    assert (a[7]["inputs"] != source(seed=(1,))[7]["inputs"]).any()


def test_random_non_queries_fill_the_blanks():
    example = source(random_non_queries=True)[0]
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
