# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""What tasks share whose examples are made beforehand, all at once, as arrays."""

import dataclasses
from collections.abc import Callable

import grain
import numpy as np

from deltanet_jax.train.task import Batch
from experiments.tasks.base import shuffled_epochs

ATTEMPTS = 100
LENGTHS = (1, 2, 4, 8)  # multiples of the training length that are evaluated


@dataclasses.dataclass(frozen=True)
class ArraySource:
    """Rows of arrays as a random-access source, for Grain."""

    arrays: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return {k: v[int(index)] for k, v in self.arrays.items()}


class SyntheticTask:
    """Batches from two sets of arrays, one to train on and one held out, [N, T] each."""

    def __init__(self, vocab_size: int, data_seed: int, train: Batch, held_out: Batch):
        self.vocab_size = vocab_size
        self._data_seed = data_seed
        self._train, self._held_out = ArraySource(train), ArraySource(held_out)

    def train_dataset(self, batch_size: int) -> grain.IterDataset:
        """Epochs over the training examples, each in another order."""
        return shuffled_epochs(self._train, self._data_seed, batch_size)

    def eval_dataset(self) -> grain.MapDataset:
        """Examples of which none is among those to train on."""
        return grain.MapDataset.source(self._held_out)

    def metrics(self, loss: float, accuracy: float) -> dict[str, float]:
        """Nothing beyond loss and accuracy."""
        del loss, accuracy
        return {}


def unlike(
    taken: np.ndarray, draw: Callable[[int], dict[str, np.ndarray]], count: int, key: str
) -> dict[str, np.ndarray]:
    """`count` examples whose array `key` does not begin with a row of `taken`.

    Args:
        taken: [M, T] rows that are forbidden, as the first T columns of `key`.
        draw: makes so many new examples, as arrays [n, ...] of the same dtypes every time.
        count: examples wanted.
        key: name of the array compared.
    Raises:
        ValueError: after ATTEMPTS draws there are still too few.
    """
    length = taken.shape[1]
    forbidden = {row.tobytes() for row in taken}
    kept, missing = [], count
    for _ in range(ATTEMPTS):
        new = draw(missing)
        fresh = np.array([row[:length].tobytes() not in forbidden for row in new[key]])
        kept.append({k: v[fresh] for k, v in new.items()})
        missing -= int(fresh.sum())
        if missing == 0:
            return {k: np.concatenate([part[k] for part in kept]) for k in kept[0]}
    raise ValueError(
        f"num_train_examples: wanted few enough that {count} others can be held out, got "
        f"{len(taken)}"
    )


def distinct(rng: np.random.Generator, rows: int, size: int, count: int) -> np.ndarray:
    """`count` distinct numbers below `size` in random order, in every row: [rows, count] int64."""
    return np.argsort(rng.random((rows, size)), axis=1)[:, :count]


def accuracy_by_length(right: np.ndarray, weights: np.ndarray, seq_len: int) -> dict[str, float]:
    """Share of right answers at positions up to seq_len, from there to 2 seq_len, and so on.

    Args:
        right: whether a prediction is right, [N, T].
        weights: which count, [N, T].
        seq_len: the length trained at.
    Returns:
        "accuracy_1x", "accuracy_2x", ... for LENGTHS.
    """
    starts = (0, *(factor * seq_len for factor in LENGTHS[:-1]))
    result = {}
    for start, factor in zip(starts, LENGTHS, strict=True):
        part = slice(start, factor * seq_len)
        counted = weights[:, part]
        result[f"accuracy_{factor}x"] = float((right[:, part] * counted).sum() / counted.sum())
    return result
