# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Random probabilistic automata and strings of them, vectorised over automata.

Akyürek et al. 2024, "In-Context Language Learning: Architectures and Algorithms"
(arXiv:2401.12973).
"""

from typing import NamedTuple

import numpy as np

from experiments.tasks.synthetic import distinct

PAD, LETTERS, SEPARATOR = 0, 18, 19  # letters are ids 1 .. 18
VOCAB_SIZE = SEPARATOR + 1
MAX_STATES, MAX_EDGES = 12, 3
START = 0


class Automata(NamedTuple):
    """N automata; every state accepts, and the edges of a state are equally probable.

    Attributes:
        letters: id of every edge, [N, MAX_STATES, MAX_EDGES].
        targets: state that every edge leads to, the same shape.
        degrees: edges of every state, [N, MAX_STATES]; 1 .. 3, those first in the arrays.
    """

    letters: np.ndarray
    targets: np.ndarray
    degrees: np.ndarray

    def legal(self) -> np.ndarray:
        """Letters that may follow in every state, letter i as bit i: [N, MAX_STATES] int32."""
        used = np.arange(MAX_EDGES) < self.degrees[:, :, None]
        return np.where(used, 1 << self.letters, 0).sum(axis=2, dtype=np.int32)


def draw_automata(rng: np.random.Generator, count: int) -> Automata:
    """Automata of 4 .. 12 states over 4 .. 18 letters.

    A state has 1 .. 3 edges, of different letters, to different states other than itself. What
    cannot be reached from the start is left in: it changes no string. Nor does minimising.
    """
    states = rng.integers(4, MAX_STATES + 1, (count, 1))
    # Different letters and targets: the smallest of random numbers, the forbidden ones never.
    order = distinct(rng, count, LETTERS, LETTERS)
    outside = np.argsort(order, axis=1) >= rng.integers(4, LETTERS + 1, (count, 1))
    letters = rng.random((count, MAX_STATES, LETTERS)) + outside[:, None, :]
    targets = rng.random((count, MAX_STATES, MAX_STATES)) + np.eye(MAX_STATES)
    targets += (np.arange(MAX_STATES) >= states)[:, None, :]
    return Automata(
        letters=1 + np.argsort(letters, axis=2)[:, :, :MAX_EDGES],
        targets=np.argsort(targets, axis=2)[:, :, :MAX_EDGES],
        degrees=rng.integers(1, MAX_EDGES + 1, (count, MAX_STATES)),
    )


def draw_strings(
    rng: np.random.Generator, automata: Automata, length: int
) -> tuple[np.ndarray, np.ndarray]:
    """A prompt of every automaton: 10 .. 19 strings of 1 .. 49 letters with separators between.

    Args:
        rng: random numbers.
        automata: N automata.
        length: ids a prompt; longer ones are cut off, shorter ones padded.
    Returns:
        (ids [N, length] int32, letters legal after every id [N, length] int32, as bits).
    """
    count = len(automata.degrees)
    everyone = np.arange(count)
    strings = rng.integers(10, 20, count)
    left_of = rng.integers(1, 50, (count, 20))
    draws = rng.random((length, count))
    legal_of = automata.legal()
    ids, legal = np.zeros((2, count, length), np.int32)
    state, string = np.full(count, START), np.zeros(count, int)
    for t in range(length):
        ended = left_of[everyone, string] == 0
        edge = (draws[t] * automata.degrees[everyone, state]).astype(int)
        letter = automata.letters[everyone, state, edge]
        ids[:, t] = np.where(ended, SEPARATOR, letter)
        state = np.where(ended, START, automata.targets[everyone, state, edge])
        left_of[everyone, string] -= ~ended
        string += ended
        ids[string >= strings, t] = PAD
        string = np.minimum(string, strings)
        legal[:, t] = legal_of[everyone, state]
    return ids, legal
