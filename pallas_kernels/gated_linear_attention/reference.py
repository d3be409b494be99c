# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The definition of gated linear attention: one token at a time with `lax.scan`.

Everything else in this room is judged against this file, so it stays short and is never optimised.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pallas_kernels._common.precision import state_dtype
from pallas_kernels._common.recurrence import scan_tokens


def token(
    state: Float[Array, "B H K V"],
    q: Float[Array, "B H K"],
    k: Float[Array, "B H K"],
    v: Float[Array, "B H V"],
    g: Float[Array, "B H K_or_1"],
) -> tuple[Float[Array, "B H K V"], Float[Array, "B H V"]]:
    """README.md eq. 1, literally: (S_t, S_t^T q_t) of all heads, in the state's dtype."""
    state = jnp.exp(g)[..., None] * state + k[..., :, None] * v[..., None, :]
    return state, jnp.einsum("bhk,bhkv->bhv", q, state, precision="highest")


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
    """`token` from t = 1 to T, in float32 (float64 for float64 inputs).

    `segments` as in `scan_tokens`. Autodiff stores the state of every token.
    """
    initial_state = initial_state.astype(state_dtype(v.dtype))
    output, final_state = scan_tokens(token, initial_state, (q, k, v, g), segments)
    return (scale * output).astype(v.dtype), final_state
