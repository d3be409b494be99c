# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The examples of multi-query associative recall, one at a time, in numpy.

The generator of Arora et al. 2023 (arXiv:2312.04927): N key-value pairs, then each key once more
at a random later place, where the model must name its value.
"""

import dataclasses
from typing import ClassVar

import numpy as np

BLANK = 0


@dataclasses.dataclass(frozen=True)
class MQARSource:
    """A random-access source of examples, for Grain.

    Key ids are 1 .. V/2 - 1 and value ids V/2 .. V - 1; id 0 is the blank.

    Attributes:
        vocab_size: V, even.
        seq_len: T, even.
        num_kv_pairs: N, with 4 N <= T.
        num_examples: length of the source.
        power_a: exponent of the query places: slot i has weight (i + 1)^(power_a - 1).
        random_non_queries: blanks are uniform random ids over the whole vocabulary instead of 0.
        seed: stream of examples; example i of a stream is the same whenever it is asked for.
    """

    vocab_size: int
    seq_len: int
    num_kv_pairs: int
    num_examples: int
    power_a: float
    random_non_queries: bool
    seed: tuple[int, ...]

    IGNORED: ClassVar[int] = 0  # what a target holds where its weight is 0

    def __len__(self) -> int:
        return self.num_examples

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """inputs, targets [T] int32 and weights [T] float32 (1 where a query is answered)."""
        rng = np.random.default_rng((*self.seed, int(index)))
        pairs, half = self.num_kv_pairs, self.vocab_size // 2
        keys = 1 + rng.choice(half - 1, pairs, replace=False)
        values = half + rng.choice(self.vocab_size - half, pairs, replace=False)

        if self.random_non_queries:
            inputs = rng.integers(0, self.vocab_size, self.seq_len, dtype=np.int32)
        else:
            inputs = np.full(self.seq_len, BLANK, np.int32)
        inputs[0 : 2 * pairs : 2] = keys
        inputs[1 : 2 * pairs : 2] = values

        # Slots of two places each after the pairs; the j-th slot drawn asks for the j-th key.
        slots = (self.seq_len - 2 * pairs) // 2
        weights = np.arange(1, slots + 1, dtype=np.float64) ** (self.power_a - 1)
        drawn = rng.choice(slots, pairs, replace=False, p=weights / weights.sum())
        places = 2 * pairs + 2 * drawn

        targets = np.full(self.seq_len, self.IGNORED, np.int32)
        answered = np.zeros(self.seq_len, np.float32)
        inputs[places] = keys
        targets[places] = values
        answered[places] = 1
        return {"inputs": inputs, "targets": targets, "weights": answered}
