# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""State tracking as a task: trained at one length, evaluated at up to eight times that."""

import dataclasses
from typing import ClassVar

import numpy as np

from deltanet_jax.config import check_at_least, check_one_of
from deltanet_jax.train.task import Batch
from experiments.tasks.base import TaskConfig
from experiments.tasks.state_tracking.problems import PROBLEMS
from experiments.tasks.synthetic import LENGTHS, SyntheticTask, accuracy_by_length, unlike


@dataclasses.dataclass(frozen=True)
class StateTrackingConfig(TaskConfig):
    """Which state, and how long.

    Attributes:
        problem: a name of PROBLEMS.
        seq_len: T, ids a training sequence; held-out ones have 8 T.
        num_train_examples: examples of an epoch.
        num_eval_examples: sequences held out; the first half is the test, the second validates.
        data_seed: of all examples and of the shuffling.
    """

    kind: ClassVar[str] = "state_tracking"
    score_name: ClassVar[str] = f"accuracy_{LENGTHS[-1]}x"
    selection_name: ClassVar[str] = f"validation_{score_name}"
    early_stopping: ClassVar[bool] = True
    problem: str = "parity"
    seq_len: int = 40
    num_train_examples: int = 100_000
    num_eval_examples: int = 1_000
    data_seed: int = 0

    def __post_init__(self):
        check_one_of(self, "problem", tuple(PROBLEMS))
        for name in ("seq_len", "num_train_examples"):
            check_at_least(self, name, 1)
        check_at_least(self, "num_eval_examples", 2)
        check_at_least(self, "data_seed", 0)

    @property
    def vocab_size(self) -> int:
        """The problem's."""
        return PROBLEMS[self.problem].vocab_size

    def make(self) -> "StateTrackingTask":
        return StateTrackingTask(self)


class StateTrackingTask(SyntheticTask):
    """Sequences whose every target is the state after the ids so far."""

    def __init__(self, config: StateTrackingConfig):
        self.config = config
        rng = np.random.default_rng(config.data_seed)

        def draw(count: int, length: int) -> dict[str, np.ndarray]:
            inputs, targets, counted = PROBLEMS[config.problem].draw(rng, (count, length))
            return {"inputs": inputs, "targets": targets, "weights": counted.astype(np.float32)}

        train = draw(config.num_train_examples, config.seq_len)
        held_out = unlike(
            train["inputs"],
            lambda n: draw(n, LENGTHS[-1] * config.seq_len),
            config.num_eval_examples,
            "inputs",
        )
        super().__init__(config.vocab_size, config.data_seed, train, held_out)

    def score(self, examples: Batch, predictions: np.ndarray) -> dict[str, float]:
        """Accuracy at places up to T, T to 2 T, 2 T to 4 T, 4 T to 8 T; the last validates too."""
        right, weights = predictions == examples["targets"], examples["weights"]
        half = len(right) // 2
        test, validation = (
            accuracy_by_length(right[part], weights[part], self.config.seq_len)
            for part in (slice(half), slice(half, None))
        )
        return test | {self.config.selection_name: validation[self.config.score_name]}
