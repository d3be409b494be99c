# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The definition of the gated delta rule: decay, then a token of the plain rule, with `lax.scan`.

Everything else in this room is judged against this file, so it stays short and is never optimised.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pallas_kernels._common.precision import state_dtype
from pallas_kernels._common.recurrence import scan_tokens
from pallas_kernels.delta_rule import reference as delta_rule


def gated_delta_rule_reference(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B T H K"],
    v: Float[Array, "B T H V"],
    g: Float[Array, "B T H"] | Float[Array, "B T H K"],
    beta: Float[Array, "B T H"],
    initial_state: Float[Array, "B H K V"],
    segments: Int[Array, "B T"] | None,
    *,
    scale: float,
) -> tuple[Float[Array, "B T H V"], Float[Array, "B H K V"]]:
    """README.md eq. 1, literally, in float32 (float64 for float64 inputs).

    `segments` as in `scan_tokens`. Autodiff stores the state of every token.
    """

    g = g[..., None] if g.ndim == 3 else g

    def token(state_BHKV, q_BHK, k_BHK, v_BHV, beta_BH, g):
        decayed_BHKV = jnp.exp(g)[..., None] * state_BHKV
        return delta_rule.token(decayed_BHKV, q_BHK, k_BHK, v_BHV, beta_BH)

    initial_state = initial_state.astype(state_dtype(v.dtype))
    output, final_state = scan_tokens(token, initial_state, (q, k, v, beta, g), segments)
    return (scale * output).astype(v.dtype), final_state
