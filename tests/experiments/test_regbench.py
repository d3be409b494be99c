# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""RegBench: strings walked by hand, what the protocol promises, the metric."""

import numpy as np
import pytest

from experiments.tasks.regbench.automata import (
    PAD,
    SEPARATOR,
    Automata,
    draw_automata,
    draw_strings,
)
from experiments.tasks.regbench.task import RegBenchConfig
from tests.helpers.held_out import held_out

SMALL = RegBenchConfig(seq_len=300, num_train_examples=60, num_eval_examples=40)


def edges(automata, i):
    """{state: {letter: target}} of automaton i."""
    return {
        state: {
            int(automata.letters[i, state, e]): int(automata.targets[i, state, e])
            for e in range(automata.degrees[i, state])
        }
        for state in range(automata.degrees.shape[1])
    }


def walk(table, string):
    """The state after `string`, or None if the automaton does not accept it."""
    state = 0
    for letter in string:
        state = table[state].get(letter)
        if state is None:
            return None
    return state


def strings_of(ids):
    ids = [int(i) for i in ids if i != PAD]
    pieces, current = [], []
    for i in ids:
        if i == SEPARATOR:
            pieces.append(current)
            current = []
        else:
            current.append(i)
    return [*pieces, current]


def two_states():
    """Letter 3 goes from 0 to 1; letters 5 and 7 go back. The other states have edges too."""
    letters, targets = np.full((1, 12, 3), 9), np.zeros((1, 12, 3), int)
    letters[0, 0, 0], targets[0, 0, 0] = 3, 1
    letters[0, 1, :2], targets[0, 1, :2] = (5, 7), 0
    degrees = np.ones((1, 12), int)
    degrees[0, 1] = 2
    return Automata(letters, targets, degrees)


class Scripted:
    def integers(self, low, high, size):
        if size == 1:
            return np.array([2])  # strings
        return np.array([[4, 3] + [0] * 18])  # letters of each

    def random(self, size):
        return np.array([0.0, 0.6, 0.0, 0.4, 0.9, 0.0, 0.1, 0.0, 0.5, 0.5])[:, None]


def test_a_prompt_by_hand():
    """0 -3- 1 -7- 0 -3- 1 -5- | 0 -3- 1 -5- 0 -3- and the end."""
    ids, legal = draw_strings(Scripted(), two_states(), 10)
    assert ids.tolist() == [[3, 7, 3, 5, SEPARATOR, 3, 5, 3, PAD, PAD]]
    after_0, after_1 = 1 << 3, (1 << 5) | (1 << 7)
    assert legal[0, :8].tolist() == [
        after_1, after_0, after_1, after_0, after_0, after_1, after_0, after_1,
    ]  # fmt: skip


def test_automata_are_as_the_protocol_says():
    automata = draw_automata(np.random.default_rng(0), 300)
    alphabets, degrees = [], []
    for i in range(300):
        table, seen, front = edges(automata, i), {0}, [0]
        while front:
            state = front.pop()
            degrees.append(len(table[state]))
            assert 1 <= automata.degrees[i, state] == len(table[state])  # different letters
            targets = set(table[state].values())
            assert len(targets) == len(table[state]) and state not in targets
            front += targets - seen
            seen |= targets
        letters = {letter for state in seen for letter in table[state]}
        assert letters <= set(range(1, 19)) and len(seen) <= 12
        alphabets.append(len(letters))
    assert np.bincount(degrees)[1:].min() > 0.25 * len(degrees)
    assert max(alphabets) > 14
    sizes = 1 + automata.targets.max(axis=(1, 2))
    assert set(sizes) == set(range(4, 13))


def test_every_string_is_accepted_and_legal_letters_are_the_automatons():
    automata = draw_automata(np.random.default_rng(1), 50)
    ids, legal = draw_strings(np.random.default_rng(2), automata, 950)
    counts, lengths = [], []
    for i in range(50):
        table, strings = edges(automata, i), strings_of(ids[i])
        assert all(walk(table, string) is not None for string in strings)
        counts.append(len(strings))
        lengths += map(len, strings)
        prefix = []
        for t in range(np.flatnonzero(ids[i])[-1] + 1):
            prefix = [] if ids[i, t] == SEPARATOR else [*prefix, int(ids[i, t])]
            wanted = {letter for letter in range(19) if walk(table, [*prefix, letter]) is not None}
            assert {letter for letter in range(20) if legal[i, t] >> letter & 1} == wanted
    assert min(counts) >= 10 and max(counts) <= 19
    assert min(lengths) >= 1 and max(lengths) == 49
    assert np.mean(lengths) == pytest.approx(25, abs=1.5)


def test_separators_and_pads_are_not_predicted():
    task = SMALL.make()
    batch = next(iter(task.train_dataset(60)))
    assert set(batch) == {"inputs", "targets", "weights"}
    assert (batch["inputs"][:, 1:] == batch["targets"][:, :-1]).all()
    skipped = np.isin(batch["targets"], (PAD, SEPARATOR))
    assert (batch["weights"] == ~skipped).all() and skipped.any()


def test_held_out_automata_are_not_among_those_to_train_on(monkeypatch):
    """Where the generator repeats itself, what is held out is drawn again."""
    from experiments.tasks.regbench import task

    made = []

    def repeating(rng, count):
        drawn = draw_automata(rng, count)
        if len(made) == 1:  # the first held-out draw: ten of those trained on
            drawn = Automata(
                *(np.concatenate([a[:10], b[10:]]) for a, b in zip(made[0], drawn, strict=True))
            )
        made.append(drawn)
        return drawn

    monkeypatch.setattr(task, "draw_automata", repeating)
    config = SMALL.replace(num_train_examples=20, num_eval_examples=20)
    assert len(config.make().eval_dataset()) == 20
    assert [len(drawn.degrees) for drawn in made] == [20, 20, 10]


def test_the_metric_counts_what_is_legal():
    task = SMALL.make()
    examples = held_out(task)
    assert task.score(examples, examples["targets"])["dfa_accuracy"] == 1
    lowest = np.log2(examples["legal"] & -examples["legal"]).astype(int)  # one legal letter
    assert task.score(examples, lowest)["dfa_accuracy"] == 1
    assert (lowest != examples["targets"])[examples["weights"] > 0].mean() > 0.2
    for never in (PAD, SEPARATOR):
        wrong = np.full_like(examples["targets"], never)
        assert task.score(examples, wrong)["dfa_accuracy"] == 0


def test_half_of_the_held_out_automata_validate():
    task = SMALL.make()
    examples = held_out(task)
    half = len(examples["targets"]) // 2
    predictions = np.concatenate(
        [examples["targets"][:half], np.full_like(examples["targets"][half:], PAD)]
    )
    scores = task.score(examples, predictions)
    assert scores == {"dfa_accuracy": 1.0, "validation_dfa_accuracy": 0.0}


def test_random_letters_are_legal_as_often_as_there_are_edges():
    """Two edges of 18 letters on average."""
    task = SMALL.make()
    examples = held_out(task)
    guesses = np.random.default_rng(0).integers(1, 19, examples["targets"].shape)
    assert task.score(examples, guesses)["dfa_accuracy"] == pytest.approx(2 / 18, abs=0.02)


@pytest.mark.parametrize(
    ("name", "least"), [("seq_len", 1), ("num_train_examples", 1), ("num_eval_examples", 2)]
)
def test_impossible_settings_are_refused(name, least):
    with pytest.raises(ValueError, match=f"{name}: wanted at least {least}, got {least - 1}"):
        RegBenchConfig(**{name: least - 1})
