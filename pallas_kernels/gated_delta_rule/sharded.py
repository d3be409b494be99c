# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The gated delta rule over a mesh."""

from jaxtyping import Array, Float

from pallas_kernels.delta_rule.api import DeltaRuleOutput
from pallas_kernels.delta_rule.sharded import spread
from pallas_kernels.gated_delta_rule.api import gated_delta_rule


def gated_delta_rule_sharded(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B T H K"],
    v: Float[Array, "B T H V"],
    g: Float[Array, "B T H"] | Float[Array, "B T H K"],
    beta: Float[Array, "B T H"],
    **options,
) -> DeltaRuleOutput:
    """`gated_delta_rule` with B, T and H spread over mesh axes, differentiable first order.

    Args:
        q, k, v, g, beta: whole arrays, as `gated_delta_rule`'s.
        options: mesh, rows, sequence, heads, initial_state, segment_ids as `delta_rule_sharded`'s;
            `gated_delta_rule`'s scale, chunk_size, residuals, implementation.
    Returns, raises, cost: as `delta_rule_sharded`.
    """
    return spread(gated_delta_rule, (q, k, v, g, beta), **options)
