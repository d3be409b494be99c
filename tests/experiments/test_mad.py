# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""MAD: examples made by hand, what the protocol promises, scoring."""

import jax
import numpy as np
import pytest

from deltanet_jax.sharding import MeshConfig
from deltanet_jax.train.config import TrainConfig
from deltanet_jax.train.evaluate import evaluate
from deltanet_jax.train.loop import Trainer
from experiments.tasks.mad.generators import (
    GENERATORS,
    first_occurrence,
    memorization,
    selective_copying,
)
from experiments.tasks.mad.task import GRID, MADConfig, macro_accuracy, settings
from tests.helpers.held_out import held_out
from tests.helpers.models import MIXERS, small_config


def examples(problem, n=200, training=False, **changes):
    base = GRID[problem][0]
    config = MADConfig(problem=problem, **(base | changes))
    made = GENERATORS[problem](np.random.default_rng(0), config, n, training)
    assert made["inputs"].shape == made["targets"].shape == made["weights"].shape
    assert [made[k].dtype for k in ("inputs", "targets", "weights")] == [
        np.int32,
        np.int32,
        np.float32,
    ]
    assert made["inputs"].min() >= 0 and made["inputs"].max() < config.vocab_size
    return config, made


def rows(made):
    return zip(made["inputs"], made["targets"], made["weights"] > 0, strict=True)


def test_first_occurrence_by_hand():
    codes = np.array([[5, 3, 5, 5, 3, 9], [1, 2, 3, 4, 5, 1]])
    assert first_occurrence(codes).tolist() == [[0, 1, 0, 0, 1, 5], [0, 1, 2, 3, 4, 0]]


class Scripted:
    """A generator of random integers that draws what a person wrote down."""

    def __init__(self, *draws):
        self.draws = list(draws)

    def integers(self, low, high, size):
        drawn = np.array(self.draws.pop(0))
        assert drawn.shape == size and drawn.min() >= low and drawn.max() < high
        return drawn


def test_selective_copying_by_hand():
    """Content 3, 1, 3; two blanks (6) before the first, one before the last; copy id 7."""
    config = MADConfig(problem="selective_copying", vocab_size=8, seq_len=10, num_tokens_to_copy=3)
    made = selective_copying(Scripted([[3, 1, 3]], [[2, 0, 0]]), config, 1, True)
    assert made["inputs"].tolist() == [[6, 6, 3, 1, 6, 3, 7, 6, 6, 6]]
    assert made["targets"][0, 7:].tolist() == [3, 1, 3]
    assert made["weights"].tolist() == [[0] * 7 + [1] * 3]


def test_memorization_by_hand(monkeypatch):
    """V = 9: keys 0 .. 3, values 4 .. 7, insert 8; the map sends key i to 7 - i."""

    class Reversed:
        def permutation(self, n):
            return np.arange(n)[::-1]

    monkeypatch.setattr(np.random, "default_rng", lambda seed: Reversed())
    config = MADConfig(problem="memorization", vocab_size=9, seq_len=6)
    made = memorization(Scripted([[2, 0, 2]]), config, 1, True)
    assert made["inputs"].tolist() == [[2, 8, 0, 8, 2, 8]]
    assert made["targets"][0, 1::2].tolist() == [5, 7, 5]
    assert made["weights"].tolist() == [[0, 1, 0, 1, 0, 1]]


@pytest.mark.parametrize("problem", ["in_context_recall", "noisy_in_context_recall"])
def test_recall_asks_for_what_was_shown_and_for_all_of_it(problem):
    """Read token by token, as a person would: a dictionary of what keys were paired with."""
    config, made = examples(problem)
    noise = config.vocab_size - (16 if problem.startswith("noisy") else 0)
    noisy = []
    for inputs, targets, counted in rows(made):
        sequence = [*inputs, targets[-1]]
        known = {}
        for place in range(0, len(sequence), 2):
            key, value = sequence[place : place + 2]
            if key >= noise:
                assert value >= noise and not counted[place]
            else:
                assert key < noise // 2 <= value < noise
                assert counted[place] == (key in known)
                assert known.setdefault(key, value) == value
                assert not counted[place] or targets[place] == value
            if place:
                assert not counted[place - 1]
            noisy.append(key >= noise)
        assert counted[-1]  # the last pair's key was shown before
    wanted = config.frac_noise * 62 / 64 if noise < config.vocab_size else 0
    assert np.mean(noisy) == pytest.approx(wanted, abs=0.01)


def test_recall_trains_on_every_next_token():
    for problem in ("in_context_recall", "noisy_in_context_recall", "fuzzy_in_context_recall"):
        _, made = examples(problem, n=5, training=True)
        assert (made["weights"] == 1).all()
        assert (made["inputs"][:, 1:] == made["targets"][:, :-1]).all()


def fuzzy_pairs(sequence, half, pad):
    """[(key, value, place of the value)] of a sequence padded on the left."""
    pairs, place = [], 0
    while sequence[place] == pad:
        place += 1
    while place < len(sequence):
        middle = place
        while sequence[middle] < half:
            middle += 1
        end = middle
        while end < len(sequence) and sequence[end] >= half:
            end += 1
        pairs.append((tuple(sequence[place:middle]), tuple(sequence[middle:end]), middle))
        place = end
    return pairs


@pytest.mark.parametrize("training", [True, False])
def test_fuzzy_recall_has_tuples_of_different_ids_and_ends_with_one_seen_before(training):
    config, made = examples("fuzzy_in_context_recall", training=training)
    half, pad = 7, 15
    lengths = set()
    for inputs, targets, counted in rows(made):
        sequence = np.array([*inputs, targets[-1] if training or counted[-1] else -1])
        pairs = fuzzy_pairs(sequence, half, pad)
        assert all(pad not in key + value for key, value, _ in pairs)
        known, answers = {}, set()
        for key, value, _place in pairs:
            assert len(set(key)) == len(key) <= 3 and len(set(value)) == len(value) <= 3
            assert known.setdefault(key, value) == value
            lengths |= {(len(key), len(value))}
        seen = set()
        for key, value, place in pairs:
            answers |= {place + i - 1 for i in range(len(value))} if key in seen else set()
            seen.add(key)
        assert len(seen) < len(pairs) and len(inputs) - 1 in answers
        if not training:
            assert set(np.flatnonzero(counted)) == answers
    keys = (1, 2, 3) if training else (3,)
    assert lengths == {(k, v) for k in keys for v in (1, 2, 3)}


def test_fuzzy_probe_stands_anywhere():
    """Where the probe's first appearance begins, in quarters of the sequence."""
    _, made = examples("fuzzy_in_context_recall", n=400, vocab_size=128)
    quarters = np.zeros(4)
    for inputs, targets, _counted in rows(made):
        pairs = fuzzy_pairs(np.array([*inputs, targets[-1]]), 63, 127)
        place = next(p for key, _, p in pairs if key == pairs[-1][0])
        quarters[place * 4 // len(inputs)] += 1
    assert (quarters > 60).all()


def test_compression_gives_back_all_of_its_input():
    config, made = examples("compression", n=20)
    assert (made["inputs"] == made["targets"]).all() and (made["weights"] == 1).all()
    assert (made["inputs"][:, -1] == 15).all() and (made["inputs"][:, :-1] < 15).all()


def test_selective_copying_names_the_content_in_order():
    config, made = examples("selective_copying")
    for inputs, targets, counted in rows(made):
        copy = list(inputs).index(15)
        assert [t for t in inputs[:copy] if t != 14] == list(targets[counted])
        assert inputs[copy - 1] < 14 and (inputs[copy + 1 :] == 14).all()
        assert np.flatnonzero(counted).tolist() == list(range(copy + 1, 256))


def test_memorization_has_one_map_for_training_and_evaluation():
    config = settings("memorization")[0].replace(num_eval_examples=50)
    task = config.make()
    pairs = set()
    for part in (next(iter(task.train_dataset(256))), held_out(task)):
        keys, values = part["inputs"][:, ::2].ravel(), part["targets"][:, 1::2].ravel()
        pairs |= set(zip(keys, values, strict=True))
    assert len(pairs) == len({key for key, _ in pairs}) == len({value for _, value in pairs})


@pytest.mark.parametrize("problem", GRID)
def test_held_out_examples_are_not_among_those_to_train_on(problem):
    task = settings(problem)[0].replace(num_train_examples=64, num_eval_examples=64).make()
    train = {row.tobytes() for row in next(iter(task.train_dataset(64)))["inputs"]}
    others = [row.tobytes() for row in held_out(task)["inputs"]]
    assert len(others) == 64 and not train & set(others)


def test_held_out_examples_must_exist():
    tiny = MADConfig(problem="compression", vocab_size=2, seq_len=4, num_eval_examples=2)
    with pytest.raises(ValueError, match="^num_train_examples: wanted few enough that 2 others"):
        tiny.make()


def test_the_same_seed_gives_the_same_examples():
    config = settings("fuzzy_in_context_recall")[0].replace(num_train_examples=8)
    a, b, c = (config.replace(data_seed=s).make().eval_dataset()[3] for s in (1, 1, 2))
    assert (a["inputs"] == b["inputs"]).all() and (a["inputs"] != c["inputs"]).any()


def test_the_grid_is_the_protocols():
    counts = {problem: len(settings(problem)) for problem in GRID}
    assert sum(counts.values()) == 66
    assert counts["noisy_in_context_recall"] == 14 and counts["selective_copying"] == 13
    noisiest = settings("noisy_in_context_recall")[-1]
    assert (noisiest.vocab_size, noisiest.seq_len, noisiest.frac_noise) == (32, 128, 0.8)


def test_macro_accuracy_by_hand():
    """Id 1: 1 of 2 right; id 2: 1 of 1; id 5 predicted only; id 0 and the ignored one left out."""
    targets = np.array([[1, 1, 2, 7]])
    predictions = np.array([[1, 5, 2, 3]])
    weights = np.array([[1.0, 1.0, 1.0, 0.0]])
    assert macro_accuracy(targets, predictions, weights) == pytest.approx((0.5 + 1 + 0) / 3)


def test_a_model_that_has_learned_nothing_scores_chance():
    """Compression of 15 ids and the last one, by the auto-encoder: 1 of 16."""
    config = MADConfig(
        problem="compression", seq_len=8, num_train_examples=8, num_eval_examples=256
    )
    task, model = (
        config.make(),
        small_config(MIXERS["linear_attention"], vocab_size=16, mlp_hidden_size=0, bottleneck=True),
    )
    train = TrainConfig(batch_size=256, mesh=MeshConfig(data=1))
    trainer = Trainer(model, train, jax.devices()[:1])
    result = evaluate(trainer.eval_step, trainer.init().weights, task, 256, trainer.mesh)
    assert result["accuracy"] < 0.15 and 0 < result["macro_accuracy"] < 0.15
    examples = held_out(task)
    assert task.score(examples, examples["targets"]) == {"macro_accuracy": 1.0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"problem": "recall"}, "problem: wanted one of"),
        (
            {"seq_len": 127},
            "seq_len: wanted an even number of at least 4 for problem = in_context_re",
        ),
        (
            {"problem": "selective_copying", "seq_len": 32},
            "seq_len: wanted an even number of at least 34 .* num_tokens_to_copy = 16, got 32",
        ),
        (
            {"problem": "noisy_in_context_recall", "vocab_size": 16},
            "vocab_size: wanted at least 18, got 16",
        ),
        ({"frac_noise": 1.0}, r"frac_noise: wanted \[0, 1\), got 1.0"),
        ({"num_eval_examples": 0}, "num_eval_examples: wanted at least 1, got 0"),
    ],
)
def test_impossible_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        MADConfig(**change)
