# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The examples of multi-query associative recall, vectorised: n of them at once.

The generator of Arora et al. 2023 (arXiv:2312.04927): N key-value pairs, then each key once more
at a random later place, where the model must name its value.
"""

import numpy as np

from experiments.tasks.synthetic import distinct

BLANK = 0


def draw_examples(rng: np.random.Generator, config, count: int) -> dict[str, np.ndarray]:
    """`count` examples of an `MQARConfig`.

    Key ids are 1 .. V/2 - 1 and value ids V/2 .. V - 1; id 0 is the blank.

    Returns:
        inputs, targets [count, T] int32 and weights [count, T] float32 (1 where a query is
        answered).
    """
    pairs, half, length = config.num_kv_pairs, config.vocab_size // 2, config.seq_len
    shape, rows = (count, length), np.arange(count)[:, None]
    keys = 1 + distinct(rng, count, half - 1, pairs)
    values = half + distinct(rng, count, half, pairs)

    if config.random_non_queries:
        inputs = rng.integers(0, config.vocab_size, shape, dtype=np.int32)
    else:
        inputs = np.full(shape, BLANK, np.int32)
    inputs[:, 0 : 2 * pairs : 2] = keys
    inputs[:, 1 : 2 * pairs : 2] = values

    # Slots of two places each after the pairs, drawn by weight without replacement: in the order
    # in which clocks of these rates ring. The j-th slot drawn asks for the j-th key.
    slots = (length - 2 * pairs) // 2
    weights = np.arange(1, slots + 1, dtype=np.float64) ** (config.power_a - 1)
    rings = rng.exponential(size=(count, slots)) / weights
    places = 2 * pairs + 2 * np.argsort(rings, axis=1)[:, :pairs]

    targets, answered = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
    inputs[rows, places], targets[rows, places], answered[rows, places] = keys, values, 1
    return {"inputs": inputs, "targets": targets, "weights": answered}
