# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""A key asked for at the end of a long sequence of other things, as a task."""

import dataclasses
from typing import ClassVar

import numpy as np

from deltanet_jax.config import check_at_least
from deltanet_jax.train.task import Batch
from experiments.tasks.base import TaskConfig
from experiments.tasks.synthetic import (
    LENGTHS,
    SyntheticTask,
    accuracy_by_length,
    distinct,
    unlike,
)

BLANK = 0


@dataclasses.dataclass(frozen=True)
class NeedleConfig(TaskConfig):
    """How long a haystack and how many needles.

    Attributes:
        vocab_size: V, a multiple of 4: blank 0, hay below V / 2, keys below 3 V / 4, then values.
        seq_len: T, even, at least 2 num_needles + 2: the length trained at.
        num_needles: N key-value pairs, with different keys; one is asked for.
        num_train_examples: examples of an epoch.
        num_eval_examples: held-out examples of each of the lengths T, 2 T, 4 T, 8 T.
        data_seed: of all examples and of the shuffling.
    """

    kind: ClassVar[str] = "needle"
    score_name: ClassVar[str] = f"accuracy_{LENGTHS[-1]}x"
    vocab_size: int = 256
    seq_len: int = 128
    num_needles: int = 4
    num_train_examples: int = 100_000
    num_eval_examples: int = 500
    data_seed: int = 0

    def __post_init__(self):
        for name in ("num_needles", "num_train_examples", "num_eval_examples"):
            check_at_least(self, name, 1)
        check_at_least(self, "data_seed", 0)
        if self.vocab_size % 4 or self.vocab_size < 4 * max(self.num_needles, 2):
            raise ValueError(
                f"vocab_size: wanted a multiple of 4 with at least num_needles = "
                f"{self.num_needles} keys in its third quarter, got {self.vocab_size}"
            )
        if self.seq_len % 2 or self.seq_len < 2 * self.num_needles + 2:
            raise ValueError(
                f"seq_len: wanted an even number of at least 2 num_needles + 2 = "
                f"{2 * self.num_needles + 2}, got {self.seq_len}"
            )

    def make(self) -> "NeedleTask":
        return NeedleTask(self)


class NeedleTask(SyntheticTask):
    """Sequences that end with a key, whose value is the only target."""

    def __init__(self, config: NeedleConfig):
        self.config = config
        rng = np.random.default_rng(config.data_seed)
        train = haystacks(rng, config, config.num_train_examples, config.seq_len)
        longest = LENGTHS[-1] * config.seq_len
        parts = []
        for factor in LENGTHS:
            length = factor * config.seq_len
            part = unlike(
                train["inputs"],
                lambda n, length=length: haystacks(rng, config, n, length),
                config.num_eval_examples,
                "inputs",
            )
            # A causal model does not see what follows the question.
            parts.append({k: np.pad(v, ((0, 0), (0, longest - length))) for k, v in part.items()})
        held_out = {k: np.concatenate([part[k] for part in parts]) for k in train}
        super().__init__(config.vocab_size, config.data_seed, train, held_out)

    def score(self, examples: Batch, predictions: np.ndarray) -> dict[str, float]:
        """Accuracy at T, 2 T, 4 T, 8 T."""
        right = predictions == examples["targets"]
        return accuracy_by_length(right, examples["weights"], self.config.seq_len)


def haystacks(
    rng: np.random.Generator, config: NeedleConfig, count: int, length: int
) -> dict[str, np.ndarray]:
    """`count` sequences of `length` ids: inputs, targets int32 and weights float32, [n, length].

    The needles stand at different even places, uniformly; the last id is one of their keys.
    """
    quarter, needles = config.vocab_size // 4, config.num_needles
    rows = np.arange(count)[:, None]
    inputs = rng.integers(1, 2 * quarter, (count, length), dtype=np.int32)
    keys = 2 * quarter + distinct(rng, count, quarter, needles)
    values = 3 * quarter + rng.integers(0, quarter, (count, needles))
    places = 2 * distinct(rng, count, (length - 2) // 2, needles)
    inputs[rows, places], inputs[rows, places + 1] = keys, values
    targets, weights = np.zeros_like(inputs), np.zeros(inputs.shape, np.float32)
    inputs[:, -1], targets[:, -1], weights[:, -1] = keys[:, 0], values[:, 0], 1
    return {"inputs": inputs, "targets": targets, "weights": weights}
