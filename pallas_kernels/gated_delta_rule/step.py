# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""One token of the gated delta rule, for decoding with a carried state."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from pallas_kernels._common import checks
from pallas_kernels._common.arguments import check_log_decay
from pallas_kernels.delta_rule.step import delta_rule_step


def gated_delta_rule_step(
    state: Float[Array, "B H K V"],
    q: Float[Array, "B H K"],
    k: Float[Array, "B H K"],
    v: Float[Array, "B H V"],
    g: Float[Array, "B H"] | Float[Array, "B H K"],
    beta: Float[Array, "B H"],
    *,
    scale: float | None = None,
) -> tuple[Float[Array, "B H V"], Float[Array, "B H K V"]]:
    """Decays the state, then writes one token into it and reads it (README.md eq. 1).

    Args:
        state, q, k, v, beta, scale: as in `delta_rule_step`.
        g: log decay, [B, H] or [B, H, K], <= 0, in the state's dtype.
    Returns:
        (output [B, H, V] in v.dtype, the new state).
    Raises:
        ValueError, TypeError: a shape or dtype is not as above; names the argument.
    Cost: 7 K V FLOP and two passes over the state per head.
    Source: Yang, Kautz, Hatamizadeh 2025, arXiv:2412.06464; Kimi Team 2025, arXiv:2510.26692.
    """
    sizes = checks.check_inputs("B H", q, k, v, beta)
    check_log_decay(g, "B H", sizes, q.dtype)
    checks.check_state("state", state, sizes, q.dtype)
    g = g[..., None] if g.ndim == 2 else g
    return delta_rule_step(jnp.exp(g)[..., None] * state, q, k, v, beta, scale=scale)
