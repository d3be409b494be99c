# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Needles: an example by hand, what every haystack holds, lengths and chance."""

import numpy as np
import pytest

from experiments.tasks.needle.task import NeedleConfig, haystacks
from tests.helpers.held_out import held_out

CONFIG = NeedleConfig(
    vocab_size=64, seq_len=16, num_needles=3, num_train_examples=100, num_eval_examples=60
)


class Scripted:
    """Draws hay, keys, values and places that a person wrote down."""

    def __init__(self, *draws):
        self.draws = [np.array(draw) for draw in draws]

    def integers(self, low, high, size, dtype=None):
        drawn = self.draws.pop(0)
        assert drawn.shape == np.zeros(size).shape and (low <= drawn).all() and (drawn < high).all()
        return drawn

    def permuted(self, x, axis):
        return x


def test_a_haystack_by_hand():
    """V = 16: hay 1 .. 7, keys 8 .. 11, values 12 .. 15. Key 10 has value 12, key 8 has 15."""
    config = NeedleConfig(vocab_size=16, seq_len=8, num_needles=2)
    script = Scripted([[1, 2, 3, 4, 5, 6, 7, 1]], [2], [0], [[0, 3]], [1], [2])
    made = haystacks(script, config, 1, 8)
    assert made["inputs"].tolist() == [[1, 2, 10, 12, 8, 15, 7, 10]]
    assert made["targets"][0, -1] == 12
    assert made["weights"].tolist() == [[0] * 7 + [1]]


def test_every_haystack_ends_with_a_key_whose_value_was_given():
    made = haystacks(np.random.default_rng(0), CONFIG, 300, 16)
    places = []
    for inputs, targets in zip(made["inputs"], made["targets"], strict=True):
        starts = [p for p in range(15) if 32 <= inputs[p] < 48]
        pairs = {inputs[p]: inputs[p + 1] for p in starts}
        assert len(pairs) == 3 and all(48 <= value < 64 for value in pairs.values())
        assert targets[-1] == pairs[inputs[-1]]
        hay = np.delete(inputs[:-1], [*starts, *(p + 1 for p in starts)])
        assert len(hay) == 9 and (hay > 0).all() and (hay < 32).all()
        places.append(next(p for p in starts if inputs[p] == inputs[-1]))
    assert set(places) == set(range(0, 14, 2))
    assert np.bincount(places)[::2].min() > 0.5 * 300 / 7


def test_held_out_haystacks_have_four_lengths_and_one_question_each():
    task = CONFIG.make()
    examples = held_out(task)
    assert examples["inputs"].shape == (4 * 60, 128)
    ends = [np.flatnonzero(row).tolist() for row in examples["weights"]]
    assert ends == [[n - 1] for n in (16, 32, 64, 128) for _ in range(60)]
    assert all(
        (row[end + 1 :] == 0).all() for row, (end,) in zip(examples["inputs"], ends, strict=True)
    )
    train = {row.tobytes() for row in next(iter(task.train_dataset(100)))["inputs"]}
    assert not train & {row[:16].tobytes() for row in examples["inputs"]}


def test_scores_are_told_apart_by_length():
    task = CONFIG.make()
    examples = held_out(task)
    assert set(task.score(examples, examples["targets"]).values()) == {1.0}
    lost = examples["targets"].copy()
    lost[120:150] = 0  # half of those at four times the length
    scores = task.score(examples, lost)
    assert scores == {"accuracy_1x": 1, "accuracy_2x": 1, "accuracy_4x": 0.5, "accuracy_8x": 1}


def test_guesses_score_chance():
    task = CONFIG.replace(num_eval_examples=400).make()
    examples = held_out(task)
    guesses = np.random.default_rng(0).integers(48, 64, examples["targets"].shape)
    scores = task.score(examples, guesses).values()
    assert all(score == pytest.approx(1 / 16, abs=0.04) for score in scores)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocab_size": 62}, "vocab_size: wanted a multiple of 4 with at least num_needles = 4"),
        ({"vocab_size": 12}, "vocab_size: wanted a multiple of 4 with at least num_needles = 4"),
        ({"seq_len": 8}, r"seq_len: wanted an even number of at least 2 num_needles \+ 2 = 10"),
        ({"num_needles": 0}, "num_needles: wanted at least 1, got 0"),
    ],
)
def test_impossible_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        NeedleConfig(**change)
