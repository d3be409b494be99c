# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Multi-query associative recall as a task."""

import dataclasses
from typing import ClassVar

import grain

from deltanet_jax.config import check_at_least
from experiments.tasks.base import TaskConfig, shuffled_epochs
from experiments.tasks.mqar.generator import MQARSource

TRAIN_STREAM, EVAL_STREAM = 0, 1


@dataclasses.dataclass(frozen=True)
class MQARConfig(TaskConfig):
    """What is asked; the defaults are the hardest setting of Zoology's figure 2 and the paper's.

    Attributes:
        vocab_size: V, even: keys 1 .. V/2 - 1, values V/2 .. V - 1, blank 0.
        seq_len: T, even, at least 4 num_kv_pairs.
        num_kv_pairs: N pairs, each asked for once.
        num_train_examples, num_eval_examples: examples of an epoch and of an evaluation.
        power_a: the smaller, the sooner after the pairs the queries come.
        random_non_queries: fill the places between queries with random ids instead of blanks.
        data_seed: of both streams and of the shuffling.
    """

    kind: ClassVar[str] = "mqar"
    vocab_size: int = 8192
    seq_len: int = 512
    num_kv_pairs: int = 64
    num_train_examples: int = 100_000
    num_eval_examples: int = 3_000
    power_a: float = 0.01
    random_non_queries: bool = False
    data_seed: int = 123

    def __post_init__(self):
        for name in ("num_kv_pairs", "num_train_examples", "num_eval_examples"):
            check_at_least(self, name, 1)
        check_at_least(self, "data_seed", 0)
        if self.vocab_size % 2 or self.vocab_size < 2 * self.num_kv_pairs + 2:
            raise ValueError(
                "vocab_size: wanted an even number with at least num_kv_pairs = "
                f"{self.num_kv_pairs} keys in 1 .. vocab_size / 2 - 1, got {self.vocab_size}"
            )
        if self.seq_len % 2 or self.seq_len < 4 * self.num_kv_pairs:
            raise ValueError(
                f"seq_len: wanted an even number of at least 4 num_kv_pairs = "
                f"{4 * self.num_kv_pairs}, got {self.seq_len}"
            )
        if not self.power_a > 0:
            raise ValueError(f"power_a: wanted more than 0, got {self.power_a}")

    def make(self) -> "MQARTask":
        return MQARTask(self)


class MQARTask:
    """Batches of recall; accuracy is the share of queries answered with the right value."""

    def __init__(self, config: MQARConfig):
        self.config = config
        self.vocab_size = config.vocab_size

    def _source(self, stream: int, num_examples: int) -> MQARSource:
        c = self.config
        return MQARSource(
            vocab_size=c.vocab_size,
            seq_len=c.seq_len,
            num_kv_pairs=c.num_kv_pairs,
            num_examples=num_examples,
            power_a=c.power_a,
            random_non_queries=c.random_non_queries,
            seed=(c.data_seed, stream),
        )

    def train_dataset(self, batch_size: int) -> grain.IterDataset:
        """Epochs over the training examples, each in another order."""
        source = self._source(TRAIN_STREAM, self.config.num_train_examples)
        return shuffled_epochs(source, self.config.data_seed, batch_size)

    def eval_dataset(self) -> grain.MapDataset:
        """Examples of a stream that training never draws from."""
        return grain.MapDataset.source(self._source(EVAL_STREAM, self.config.num_eval_examples))

    def metrics(self, loss: float, accuracy: float) -> dict[str, float]:
        """Nothing beyond loss and accuracy."""
        del loss, accuracy
        return {}
