# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The definition of gated linear attention: one token at a time with `lax.scan`.

Everything else in this room is judged against this file, so it stays short and is never optimised.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pallas_kernels._common.precision import state_dtype
from pallas_kernels._common.recurrence import scan_tokens


def gated_linear_attention_reference(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B T H K"],
    v: Float[Array, "B T H V"],
    g: Float[Array, "B T H K_or_1"],
    initial_state: Float[Array, "B H K V"],
    segments: Int[Array, "B T"] | None,
    *,
    scale: float,
) -> tuple[Float[Array, "B T H V"], Float[Array, "B H K V"]]:
    """README.md eq. 1, literally, in float32 (float64 for float64 inputs).

    `segments` as in `scan_tokens`. Autodiff stores the state of every token.
    """

    def token(state_BHKV, q_BHK, k_BHK, v_BHV, g_BHK):
        written_BHKV = k_BHK[..., :, None] * v_BHV[..., None, :]
        state_BHKV = jnp.exp(g_BHK)[..., None] * state_BHKV + written_BHKV
        read_BHV = jnp.einsum("bhk,bhkv->bhv", q_BHK, state_BHKV, precision="highest")
        return state_BHKV, scale * read_BHV

    initial_state = initial_state.astype(state_dtype(v.dtype))
    output, final_state = scan_tokens(token, initial_state, (q, k, v, g), segments)
    return output.astype(v.dtype), final_state
