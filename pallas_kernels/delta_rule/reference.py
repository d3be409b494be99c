# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The definition of the delta rule: one token at a time with `lax.scan`.

Everything else in this room is judged against this file, so it stays short, is never optimised,
and its gradients are whatever JAX derives from it. It must not know of chunks or kernels.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pallas_kernels._common.precision import state_dtype


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
    """README.md eq. 1, literally, in float32 (float64 for float64 inputs).

    `segments` numbers each row's segments from 0 (0 = the one `initial_state` belongs to). Autodiff
    through it stores the state of every token: T x K x V numbers per head.
    """
    dtype = state_dtype(v.dtype)
    if segments is None:
        segments = jnp.zeros(q.shape[:2], jnp.int32)
    # The state entering token t belongs to the segment of token t - 1.
    starts = jnp.diff(segments, axis=1, prepend=0) != 0

    def token(state_BHKV, inputs):
        q_BHK, k_BHK, v_BHV, beta_BH, starts_B = inputs
        state_BHKV = jnp.where(starts_B[:, None, None, None], 0, state_BHKV)
        held_BHV = jnp.einsum("bhk,bhkv->bhv", k_BHK, state_BHKV, precision="highest")
        update_BHV = beta_BH[..., None] * (v_BHV - held_BHV)
        state_BHKV = state_BHKV + k_BHK[..., :, None] * update_BHV[..., None, :]
        read_BHV = jnp.einsum("bhk,bhkv->bhv", q_BHK, state_BHKV, precision="highest")
        return state_BHKV, scale * read_BHV

    time_first = [jnp.moveaxis(x.astype(dtype), 1, 0) for x in (q, k, v, beta)]
    final_state, output_TBHV = jax.lax.scan(
        token, initial_state.astype(dtype), (*time_first, jnp.moveaxis(starts, 1, 0))
    )
    return jnp.moveaxis(output_TBHV, 0, 1).astype(v.dtype), final_state
