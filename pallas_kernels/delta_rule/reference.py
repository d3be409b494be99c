# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The definition of the delta rule: one token at a time with `lax.scan`.

Everything else in this room is judged against this file, so it stays short, is never optimised,
and its gradients are whatever JAX derives from it. It must not know of chunks or kernels.
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
    beta: Float[Array, "B H"],
) -> tuple[Float[Array, "B H K V"], Float[Array, "B H V"]]:
    """README.md eq. 1, literally: (S_t, S_t^T q_t) of all heads, in the state's dtype."""
    held = jnp.einsum("bhk,bhkv->bhv", k, state, precision="highest")
    update = beta[..., None] * (v - held)
    state = state + k[..., :, None] * update[..., None, :]
    return state, jnp.einsum("bhk,bhkv->bhv", q, state, precision="highest")


def delta_rule_reference(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B T H K"],
    v: Float[Array, "B T H V"],
    beta: Float[Array, "B T H"],
    initial_state: Float[Array, "B H K V"],
    segments: Int[Array, "B T"] | None,
    *,
    scale: float,
) -> tuple[Float[Array, "B T H V"], Float[Array, "B H K V"]]:
    """`token` from t = 1 to T, in float32 (float64 for float64 inputs).

    `segments` numbers each row's segments from 0 (0 = the one `initial_state` belongs to). Autodiff
    through it stores the state of every token: T x K x V numbers per head.
    """
    initial_state = initial_state.astype(state_dtype(v.dtype))
    output, final_state = scan_tokens(token, initial_state, (q, k, v, beta), segments)
    return (scale * output).astype(v.dtype), final_state
