# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The gated delta rule on a Hopper GPU: the plain rule's kernels, given a decay a head."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pallas_kernels.delta_rule.kernel_decay import ERASES
from pallas_kernels.delta_rule.kernel_vjp import delta_rule_kernels


def gated_delta_rule_kernels(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B T H K"],
    v: Float[Array, "B T H V"],
    g: Float[Array, "B T H"],
    beta: Float[Array, "B T H"],
    initial_state: Float[Array, "B H K V"],
    segments: Int[Array, "B T"] | None,
    **options,
) -> tuple[Float[Array, "B T H V"], Float[Array, "B H K V"]]:
    """`delta_rule_kernels` with a decay. What erases in float32 is as good as -inf, and has no
    gradient."""
    return delta_rule_kernels(
        q, k, v, beta, initial_state, segments, g=jnp.maximum(g, ERASES), **options
    )
