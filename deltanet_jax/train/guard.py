# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Which steps may change the state: not one of a NaN, of an infinity, or of a leap of the loss."""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

# A leap is judged by the mean and variance of the loss over about so many accepted steps ...
WINDOW = 128
# ... once there were as many as this.
HISTORY = 64


FINITE = ("loss", "grad_norm")  # what must be


class Guard(NamedTuple):
    """What was skipped, and what losses are usual; part of the train state.

    Attributes:
        skipped: steps skipped in all.
        in_row: of them the last ones, with no accepted step after.
        accepted: steps not skipped.
        loss_mean, loss_variance: of accepted steps, exponentially weighted over WINDOW of them.
    """

    skipped: Int[Array, ""]
    in_row: Int[Array, ""]
    accepted: Int[Array, ""]
    loss_mean: Float[Array, ""]
    loss_variance: Float[Array, ""]


def init_guard() -> Guard:
    """Before the first step."""
    zero, nothing = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.float32)
    return Guard(zero, zero, zero, nothing, nothing)


def judge(
    guard: Guard,
    loss: Float[Array, ""],
    grad_norm: Float[Array, ""],
    *,
    spike_sigmas: float,
    max_skipped_steps: int,
) -> tuple[Bool[Array, ""], Guard]:
    """Whether a step is accepted, and the guard after it.

    A step is skipped if its loss or gradient is not finite; if `spike_sigmas` > 0, also if its loss
    is more than so many standard deviations above the mean. After `max_skipped_steps` in a row all
    are, so the state stays as it was before them until the host has seen it.
    """
    loss = loss.astype(guard.loss_mean.dtype)  # a float64 model's too: a state keeps its dtypes
    accept = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
    if spike_sigmas > 0:
        limit = guard.loss_mean + spike_sigmas * jnp.sqrt(guard.loss_variance)
        accept &= (guard.accepted < HISTORY) | (loss <= limit)
    accept &= guard.in_row < max_skipped_steps
    accepted = guard.accepted + accept
    # The first steps count alike: a plain mean, until it is WINDOW long.
    share = 1 / jnp.clip(accepted, 1, WINDOW).astype(jnp.float32)
    distance = jnp.where(accept, loss - guard.loss_mean, 0)
    mean = guard.loss_mean + share * distance
    variance = (1 - share) * (guard.loss_variance + share * distance**2)
    return accept, Guard(
        skipped=guard.skipped + ~accept,
        in_row=jnp.where(accept, 0, guard.in_row + 1),
        accepted=accepted,
        loss_mean=mean,
        loss_variance=jnp.where(accept, variance, guard.loss_variance),
    )


class SkippedSteps(FloatingPointError):
    """Too many steps in a row were skipped.

    Attributes:
        step: the last of them.
        batch: its batch, as it came from the task.
    """

    def __init__(self, step: int, batch: dict, values: dict[str, float], in_row: int):
        bad = [k for k in FINITE if not math.isfinite(values[k])]
        reason = f"{bad[0]} is {values[bad[0]]}" if bad else f"loss leapt to {values['loss']:.4g}"
        super().__init__(f"step {step}: {reason}; {in_row} skipped in a row")
        self.step, self.batch = step, batch
