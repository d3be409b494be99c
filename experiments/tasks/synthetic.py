# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""What tasks share whose examples are made beforehand, all at once, as arrays."""

import functools
from collections.abc import Callable

import grain
import numpy as np

from deltanet_jax.train.task import Batch

ATTEMPTS = 100
BLOCK = 2048  # examples made at a time: their intermediate arrays stay small
LENGTHS = (1, 2, 4, 8)  # multiples of the training length that are evaluated


def _take(arrays: Batch, rows) -> Batch:
    return {k: v[rows] for k, v in arrays.items()}


class ArraySource:
    """Rows of arrays as a random-access source, for Grain."""

    def __init__(self, arrays: Batch):
        self.arrays = arrays

    def __len__(self) -> int:
        return len(self.arrays["inputs"])

    def __getitem__(self, index: int) -> Batch:
        return _take(self.arrays, int(index))


class BatchSource:
    """Batches of endless epochs over the rows of arrays, every epoch in another order.

    A batch is cut out of the arrays at once: taking examples one by one costs more than a small
    model's step. Batch i is the same whenever it is asked for.
    """

    def __init__(self, arrays: Batch, seed: int, batch_size: int):
        self._arrays, self._batch_size = arrays, batch_size
        count = len(arrays["inputs"])

        @functools.lru_cache(maxsize=2)
        def order(epoch: int) -> np.ndarray:
            return np.random.default_rng((seed, epoch)).permutation(count)

        self._count, self._order = count, order

    def __len__(self) -> int:
        return 2**50 // self._batch_size

    def __getitem__(self, index: int) -> Batch:
        start = int(index) * self._batch_size
        stop = start + self._batch_size
        rows = []
        for epoch in range(start // self._count, -(-stop // self._count)):
            first = epoch * self._count
            rows.append(self._order(epoch)[max(start - first, 0) : stop - first])
        return _take(self._arrays, np.concatenate(rows))


class SyntheticTask:
    """Batches from two sets of arrays, one to train on and one held out, [N, T] each.

    Attributes:
        predictions_per_row: the most weights > 0 of any row.
    """

    def __init__(self, vocab_size: int, data_seed: int, train: Batch, held_out: Batch):
        self.vocab_size = vocab_size
        self.predictions_per_row = max(
            int(np.count_nonzero(arrays["weights"], axis=1).max()) for arrays in (train, held_out)
        )
        self._data_seed = data_seed
        self._train, self._held_out = train, held_out

    def train_dataset(self, batch_size: int) -> grain.IterDataset:
        """Epochs over the training examples, each in another order."""
        source = BatchSource(self._train, self._data_seed, batch_size)
        options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)
        return grain.MapDataset.source(source).to_iter_dataset(options)

    def eval_dataset(self) -> grain.MapDataset:
        """Examples of which none is among those to train on."""
        return grain.MapDataset.source(ArraySource(self._held_out))

    def metrics(self, loss: float, accuracy: float) -> dict[str, float]:
        """Nothing beyond loss and accuracy."""
        del loss, accuracy
        return {}


def in_blocks(draw: Callable[[int], dict[str, np.ndarray]], count: int) -> dict[str, np.ndarray]:
    """`count` examples from `draw`, which is asked for at most BLOCK at a time."""
    parts = [draw(min(BLOCK, count - i)) for i in range(0, count, BLOCK)]
    return {k: np.concatenate([part[k] for part in parts]) for k in parts[0]}


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
    """`count` distinct numbers below `size` in random order, in every row: [rows, count] int64.

    By Floyd's algorithm (Bentley and Floyd 1987): work does not grow with `size`.
    """
    chosen = np.empty((rows, count), np.int64)
    for j in range(count):
        last = size - count + j
        new = rng.integers(0, last + 1, rows)
        taken = (chosen[:, :j] == new[:, None]).any(axis=1)
        chosen[:, j] = np.where(taken, last, new)
    return rng.permuted(chosen, axis=1)


def weighted_mean(values: np.ndarray, weights: np.ndarray) -> float:
    """Of arrays of one shape; summed in float64."""
    return float(np.sum(values * weights, dtype=np.float64) / np.sum(weights, dtype=np.float64))


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
        result[f"accuracy_{factor}x"] = weighted_mean(right[:, part], weights[:, part])
    return result
