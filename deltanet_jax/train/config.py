# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Configs of training; the model's is in model.py, the task's with the task."""

import dataclasses

from deltanet_jax.config import Config, check_at_least, check_one_of, check_positive
from deltanet_jax.sharding import MeshConfig

ON_SAVE_ERROR = ("fail", "continue")  # what a run may do about a save that fails


@dataclasses.dataclass(frozen=True)
class OptimizerConfig(Config):
    """AdamW with linear warm-up, a schedule, and clipping by global norm.

    Attributes:
        learning_rate: peak rate.
        min_learning_rate: where the warm-up starts and the schedule ends.
        schedule: after the warm-up "cosine", "constant", or "wsd" (warm-up, stable, decay:
            constant, then linear over the last `decay_steps`; Hu et al. 2024, arXiv:2404.06395).
        warmup_steps: optimiser steps of the warm-up.
        decay_steps: optimiser steps of the decay of "wsd", at least 1; 0 with the others.
        weight_decay: decoupled; on every weight but `optimizer.NOT_DECAYED`.
        b1, b2, eps: Adam's.
        grad_clip_norm: largest global norm of the gradient.
    """

    learning_rate: float = 3e-4
    min_learning_rate: float = 0.0
    schedule: str = "cosine"
    warmup_steps: int = 0
    decay_steps: int = 0
    weight_decay: float = 0.01
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    grad_clip_norm: float = 1.0

    def __post_init__(self):
        for name in ("learning_rate", "min_learning_rate", "weight_decay", "eps"):
            check_at_least(self, name, 0)
        for name in ("warmup_steps", "decay_steps"):
            check_at_least(self, name, 0)
        if self.min_learning_rate > self.learning_rate:
            raise ValueError(
                f"min_learning_rate: wanted at most learning_rate = {self.learning_rate}, "
                f"got {self.min_learning_rate}"
            )
        check_one_of(self, "schedule", ("cosine", "constant", "wsd"))
        if (self.decay_steps > 0) != (self.schedule == "wsd"):
            wanted = "at least 1" if self.schedule == "wsd" else "0"
            raise ValueError(
                f"decay_steps: wanted {wanted} with schedule {self.schedule!r}, "
                f"got {self.decay_steps}"
            )
        for name in ("b1", "b2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}: wanted [0, 1), got {getattr(self, name)}")
        check_positive(self, "grad_clip_norm")


@dataclasses.dataclass(frozen=True)
class TrainConfig(Config):
    """One run of the loop.

    Attributes:
        num_steps: optimiser steps in all.
        batch_size: sequences an optimiser step, over all devices.
        accumulation_steps: parts of a batch that go through one after the other.
        loss_chunk_tokens: about so many tokens of a device have their logits in memory at a time.
        seed: of the initial weights and of dropout.
        log_every_steps, eval_every_steps, checkpoint_every_steps: cadences; the last step is
            always evaluated and saved. eval_every_steps 0 evaluates after the last step only.
        keep_checkpoints: newest checkpoints kept.
        keep_every_steps: also kept, for good, are those of multiples of it; 0 keeps no others.
        max_skipped_steps: a step whose loss or gradient is not finite changes nothing and is
            counted; after so many in a row the run stops.
        spike_sigmas: skip also a step whose loss is more than so many standard deviations above
            the mean of the last 128 or so; 0 is never.
        mesh, optimizer: see there.
    """

    num_steps: int = 1000
    batch_size: int = 32
    accumulation_steps: int = 1
    loss_chunk_tokens: int = 8192
    seed: int = 0
    log_every_steps: int = 10
    eval_every_steps: int = 0
    checkpoint_every_steps: int = 1000
    keep_checkpoints: int = 2
    keep_every_steps: int = 0
    max_skipped_steps: int = 10
    spike_sigmas: float = 0.0
    mesh: MeshConfig = MeshConfig()
    optimizer: OptimizerConfig = OptimizerConfig()

    @property
    def part_size(self) -> int:
        """Sequences that go through the model at a time, over all devices."""
        return self.batch_size // self.accumulation_steps

    @property
    def guard_sizes(self) -> dict[str, float]:
        """The options of `guard.judge`."""
        return {"spike_sigmas": self.spike_sigmas, "max_skipped_steps": self.max_skipped_steps}

    def __post_init__(self):
        for name in (
            "num_steps",
            "batch_size",
            "accumulation_steps",
            "loss_chunk_tokens",
            "log_every_steps",
            "checkpoint_every_steps",
            "keep_checkpoints",
            "max_skipped_steps",
        ):
            check_at_least(self, name, 1)
        check_at_least(self, "eval_every_steps", 0)
        for name in ("seed", "spike_sigmas", "keep_every_steps"):
            check_at_least(self, name, 0)
        if self.batch_size % self.accumulation_steps:
            raise ValueError(
                f"accumulation_steps: wanted a divisor of batch_size = {self.batch_size}, "
                f"got {self.accumulation_steps}"
            )
        scheduled = self.optimizer.warmup_steps + self.optimizer.decay_steps
        if scheduled > self.num_steps:
            raise ValueError(
                f"warmup_steps: wanted warmup_steps + decay_steps at most num_steps = "
                f"{self.num_steps}, got {scheduled}"
            )
