# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""MAD as a task: six problems, their scoring, and the protocol's grid of difficulties."""

import dataclasses
from typing import ClassVar

import numpy as np

from deltanet_jax.config import check_at_least, check_one_of
from deltanet_jax.train.task import Batch
from experiments.tasks.base import TaskConfig
from experiments.tasks.mad.generators import GENERATORS, MOTIF_LENGTH, NOISE_IDS
from experiments.tasks.synthetic import SyntheticTask, in_blocks, unlike

SCORED_BATCH = 128


@dataclasses.dataclass(frozen=True)
class MADConfig(TaskConfig):
    """One problem at one difficulty; the defaults are in-context recall's baseline.

    Attributes:
        problem: a name of GENERATORS.
        vocab_size: V.
        seq_len: L, even. The recall problems' inputs are one shorter where they are shifted.
        num_train_examples, num_eval_examples: examples of an epoch and of an evaluation.
        frac_noise: share of noise pairs, in [0, 1), of noisy_in_context_recall.
        num_tokens_to_copy: content ids of selective_copying.
        data_seed: of all examples and of the shuffling.
    """

    kind: ClassVar[str] = "mad"
    score_name: ClassVar[str] = "macro_accuracy"
    problem: str = "in_context_recall"
    vocab_size: int = 16
    seq_len: int = 128
    num_train_examples: int = 12_800
    num_eval_examples: int = 1_280
    frac_noise: float = 0.2
    num_tokens_to_copy: int = 16
    data_seed: int = 12_345

    def __post_init__(self):
        check_one_of(self, "problem", tuple(GENERATORS))
        for name in ("num_train_examples", "num_eval_examples", "num_tokens_to_copy"):
            check_at_least(self, name, 1)
        check_at_least(self, "data_seed", 0)
        check_at_least(self, "vocab_size", self._least_vocab_size())
        if not 0 <= self.frac_noise < 1:
            raise ValueError(f"frac_noise: wanted [0, 1), got {self.frac_noise}")
        least = self._least_seq_len()
        if self.seq_len % 2 or self.seq_len < least:
            raise ValueError(
                f"seq_len: wanted an even number of at least {least} for problem = {self.problem} "
                f"and num_tokens_to_copy = {self.num_tokens_to_copy}, got {self.seq_len}"
            )

    def _least_vocab_size(self) -> int:
        # An id of each class; tuples of the fuzzy problem need three different ones of each.
        return {
            "noisy_in_context_recall": NOISE_IDS + 2,
            "fuzzy_in_context_recall": 2 * MOTIF_LENGTH + 1,
            "memorization": 3,
            "selective_copying": 3,
        }.get(self.problem, 2)

    def _least_seq_len(self) -> int:
        return {
            "selective_copying": 2 * self.num_tokens_to_copy + 2,
            # The probe twice, and room for a pair that ends anywhere beside it.
            "fuzzy_in_context_recall": 6 * MOTIF_LENGTH,
        }.get(self.problem, 4)

    def make(self) -> "MADTask":
        return MADTask(self)


class MADTask(SyntheticTask):
    """Batches of one problem; reports the protocol's macro accuracy beside the plain one."""

    def __init__(self, config: MADConfig):
        rng = np.random.default_rng(config.data_seed)

        def draw(count: int, training: bool = False) -> dict[str, np.ndarray]:
            generate = GENERATORS[config.problem]
            return in_blocks(lambda n: generate(rng, config, n, training), count)

        train = draw(config.num_train_examples, training=True)
        held_out = unlike(train["inputs"], draw, config.num_eval_examples, "inputs")
        super().__init__(config.vocab_size, config.data_seed, train, held_out)

    def score(self, examples: Batch, predictions: np.ndarray) -> dict[str, float]:
        """Macro accuracy, a mean over batches of 128 examples as the protocol has it."""
        groups = range(0, len(predictions), SCORED_BATCH)
        scores = [
            macro_accuracy(
                examples["targets"][i : i + SCORED_BATCH],
                predictions[i : i + SCORED_BATCH],
                examples["weights"][i : i + SCORED_BATCH],
            )
            for i in groups
        ]
        return {"macro_accuracy": float(np.mean(scores))}


def macro_accuracy(targets: np.ndarray, predictions: np.ndarray, weights: np.ndarray) -> float:
    """Mean over ids of the share of an id's targets that were predicted.

    An id that is predicted but never a target counts as 0; one that is neither is left out (so
    MulticlassAccuracy of torchmetrics 1.9). Places of weight 0 do not count.
    """
    counted = weights > 0
    targets, predictions = targets[counted], predictions[counted]
    size = 1 + max(targets.max(), predictions.max())
    wanted = np.bincount(targets, minlength=size)
    right = np.bincount(targets[targets == predictions], minlength=size)
    present = (wanted > 0) | (np.bincount(predictions, minlength=size) > 0)
    return float(np.mean(right[present] / np.maximum(wanted[present], 1)))


_LENGTHS = ({"seq_len": 256}, {"seq_len": 512}, {"seq_len": 1024})
_VOCABULARIES = ({"vocab_size": 32}, {"vocab_size": 64}, {"vocab_size": 128})
_EXAMPLES = tuple({"num_train_examples": n} for n in (6400, 3200, 1600, 800))

# Problem -> what its baseline changes of MADConfig's defaults, and the changes of the grid, made
# one at a time (66 settings in all).
GRID: dict[str, tuple[dict, tuple[dict, ...]]] = {
    "in_context_recall": ({}, (*_VOCABULARIES, *_LENGTHS, *_EXAMPLES)),
    "fuzzy_in_context_recall": ({}, (*_VOCABULARIES, *_LENGTHS, *_EXAMPLES)),
    "noisy_in_context_recall": (
        {"vocab_size": 32},
        (
            *({"vocab_size": v} for v in (48, 80, 144)),
            *_LENGTHS,
            *_EXAMPLES,
            *({"frac_noise": f} for f in (0.4, 0.6, 0.8)),
        ),
    ),
    "selective_copying": (
        {"seq_len": 256},
        (
            *_VOCABULARIES,
            *_LENGTHS[1:],
            *_EXAMPLES,
            *({"num_tokens_to_copy": k} for k in (32, 64, 96)),
        ),
    ),
    "compression": (
        {"seq_len": 32},
        (*_VOCABULARIES, *({"seq_len": n} for n in (64, 128, 256)), *_EXAMPLES),
    ),
    "memorization": (
        {"vocab_size": 256, "seq_len": 32, "num_train_examples": 256},
        tuple({"vocab_size": v} for v in (512, 1024, 2048, 4096, 8192)),
    ),
}


def settings(problem: str) -> list[MADConfig]:
    """The problem's baseline and then every other setting of the grid."""
    base, changes = GRID[problem]
    baseline = MADConfig(problem=problem, **base)
    return [baseline, *(baseline.replace(**change) for change in changes)]
