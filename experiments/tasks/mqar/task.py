# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Multi-query associative recall as a task."""

import dataclasses
from typing import ClassVar

import numpy as np

from deltanet_jax.config import check_at_least, check_positive
from experiments.tasks.base import TaskConfig
from experiments.tasks.mqar.generator import draw_examples
from experiments.tasks.synthetic import SyntheticTask, at_answers, in_blocks, unlike


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
        data_seed: of all examples and of the shuffling.
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
        check_positive(self, "power_a")

    def make(self) -> "MQARTask":
        return MQARTask(self)


class MQARTask(SyntheticTask):
    """Batches of recall; accuracy is the share of queries answered with the right value."""

    def __init__(self, config: MQARConfig):
        rng = np.random.default_rng(config.data_seed)

        def draw(count: int) -> dict[str, np.ndarray]:
            return in_blocks(lambda n: draw_examples(rng, config, n), count)

        train = draw(config.num_train_examples)
        held_out = unlike(train["inputs"], draw, config.num_eval_examples, "inputs")
        # Of 512 positions 64 are asked: an eighth of the logits of 8,192 ids.
        train, held_out = at_answers(train), at_answers(held_out)
        super().__init__(config.vocab_size, config.data_seed, train, held_out)
