# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The problems: how many ids, which sequences, and the state after every id.

Each function takes a random generator and a shape (n, T) and returns inputs and targets [n, T]
int32 and whether a target counts, [n, T] bool.
"""

import functools
import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

MODULUS = 5
PLUS, MINUS, TIMES = MODULUS, MODULUS + 1, MODULUS + 2


class Problem(NamedTuple):
    """A number of ids and a generator of sequences."""

    vocab_size: int
    draw: Callable[[np.random.Generator, tuple[int, int]], tuple[np.ndarray, ...]]


def composition_table(size: int) -> np.ndarray:
    """Of the symmetric group: [a, b] is the number of "first b, then a", [size!, size!] int32.

    Permutations are numbered in lexicographic order, so 0 changes nothing.
    """
    elements = np.array(list(itertools.permutations(range(size))))
    numbers = {tuple(element): i for i, element in enumerate(elements)}
    return np.array([[numbers[tuple(a[b])] for b in elements] for a in elements], np.int32)


def _word(table: np.ndarray, rng, shape: tuple[int, int]):
    """Random elements of a group; the target is the product of all up to here."""
    inputs = rng.integers(0, len(table), shape, dtype=np.int32)
    targets = np.empty_like(inputs)
    state = np.zeros(shape[0], np.int32)
    for t in range(shape[1]):
        state = table[inputs[:, t], state]
        targets[:, t] = state
    return inputs, targets, np.ones(shape, bool)


def modular_arithmetic(rng, shape: tuple[int, int]):
    """Digit, operator, digit, ...: at every digit the value so far modulo 5, times before plus.

    Digits 0 .. 4 are their own ids, then come plus, minus, times.
    """
    inputs = rng.integers(0, MODULUS, shape, dtype=np.int32)
    inputs[:, 1::2] = PLUS + rng.integers(0, 3, inputs[:, 1::2].shape)
    targets = np.zeros_like(inputs)
    total, term = np.zeros((2, shape[0]), np.int32)  # of the terms before the last, and the last
    operator = np.full(shape[0], PLUS)
    for t in range(0, shape[1], 2):
        digit = inputs[:, t]
        total = np.where(operator == TIMES, total, (total + term) % MODULUS)
        term = np.select([operator == PLUS, operator == MINUS], [digit, -digit], term * digit)
        term %= MODULUS
        targets[:, t] = (total + term) % MODULUS
        operator = inputs[:, t + 1] if t + 1 < shape[1] else operator
    counted = np.zeros(shape, bool)
    counted[:, ::2] = True
    return inputs, targets, counted


PROBLEMS = {
    "parity": Problem(2, functools.partial(_word, composition_table(2))),
    "modular_arithmetic": Problem(MODULUS + 3, modular_arithmetic),
    "s3": Problem(6, functools.partial(_word, composition_table(3))),
    "s5": Problem(120, functools.partial(_word, composition_table(5))),
}
