# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""RegBench as a task."""

import dataclasses
from typing import ClassVar

import numpy as np

from deltanet_jax.config import check_at_least
from deltanet_jax.train.task import Batch
from experiments.tasks.base import TaskConfig
from experiments.tasks.regbench.automata import (
    PAD,
    SEPARATOR,
    VOCAB_SIZE,
    Automata,
    draw_automata,
    draw_strings,
)
from experiments.tasks.synthetic import SyntheticTask, unlike, weighted_mean


@dataclasses.dataclass(frozen=True)
class RegBenchConfig(TaskConfig):
    """How much of it; every example has an automaton of its own.

    Attributes:
        seq_len: ids a prompt; what goes beyond is cut off (no prompt is longer than 949).
        num_train_examples: automata to train on; 2,500 to 20,000 in the paper's figure.
        num_eval_examples: automata held out; the first half is the test, the second validates.
        data_seed: of the automata, their strings and the shuffling.
    """

    kind: ClassVar[str] = "regbench"
    score_name: ClassVar[str] = "dfa_accuracy"
    selection_name: ClassVar[str] = "validation_dfa_accuracy"
    early_stopping: ClassVar[bool] = True
    seq_len: int = 512
    num_train_examples: int = 20_000
    num_eval_examples: int = 1_000
    data_seed: int = 0

    def __post_init__(self):
        for name in ("seq_len", "num_train_examples"):
            check_at_least(self, name, 1)
        check_at_least(self, "num_eval_examples", 2)
        check_at_least(self, "data_seed", 0)

    @property
    def vocab_size(self) -> int:
        """Pad, 18 letters, separator."""
        return VOCAB_SIZE

    def make(self) -> "RegBenchTask":
        return RegBenchTask(self)


class RegBenchTask(SyntheticTask):
    """Next letters of languages known from the prompt alone; reports how many were legal."""

    def __init__(self, config: RegBenchConfig):
        rng = np.random.default_rng(config.data_seed)
        train = draw_automata(rng, config.num_train_examples)
        held_out = unlike(
            train.letters.reshape(config.num_train_examples, -1),
            lambda n: _with_key(draw_automata(rng, n)),
            config.num_eval_examples,
            "key",
        )
        del held_out["key"]
        batches = [
            _examples(*draw_strings(rng, automata, config.seq_len + 1))
            for automata in (train, Automata(**held_out))
        ]
        del batches[0]["legal"]  # training does not look at it
        super().__init__(VOCAB_SIZE, config.data_seed, *batches)

    def score(self, examples: Batch, predictions: np.ndarray) -> dict[str, float]:
        """Shares of predictions that some string of the automaton goes on with."""
        legal, weights = (examples["legal"] >> predictions) & 1, examples["weights"]
        half = len(legal) // 2
        return {
            "dfa_accuracy": weighted_mean(legal[:half], weights[:half]),
            "validation_dfa_accuracy": weighted_mean(legal[half:], weights[half:]),
        }


def _with_key(automata: Automata) -> dict[str, np.ndarray]:
    return {**automata._asdict(), "key": automata.letters.reshape(len(automata.letters), -1)}


def _examples(ids: np.ndarray, legal: np.ndarray) -> dict[str, np.ndarray]:
    """Next-id targets; separators and pads are not to be predicted."""
    targets = ids[:, 1:]
    counted = (targets != SEPARATOR) & (targets != PAD)
    return {
        "inputs": np.ascontiguousarray(ids[:, :-1]),
        "targets": np.ascontiguousarray(targets),
        "weights": counted.astype(np.float32),
        "legal": np.ascontiguousarray(legal[:, :-1]),
    }
