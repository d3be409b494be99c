# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""One token of the delta rule, for decoding with a carried state."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from pallas_kernels._common import checks


def delta_rule_step(
    state: Float[Array, "B H K V"],
    q: Float[Array, "B H K"],
    k: Float[Array, "B H K"],
    v: Float[Array, "B H V"],
    beta: Float[Array, "B H"],
    *,
    scale: float | None = None,
) -> tuple[Float[Array, "B H V"], Float[Array, "B H K V"]]:
    """Writes one token into the state and reads it (README.md eq. 1).

    Args:
        state: [B, H, K, V], float32 (float64 for float64 inputs): what `delta_rule` returned as
            `final_state`, or zeros.
        q, k: query and key, [B, H, K]; k is expected to have unit L2 norm, not normalised here.
        v: value, [B, H, V]. q, k, v, beta share one of float32, bfloat16, float16, float64.
        beta: write strength, [B, H], in [0, 1] (up to 2 with negative eigenvalues).
        scale: factor on the read-out; K**-0.5 by default.
    Returns:
        (output [B, H, V] in v.dtype, the new state).
    Raises:
        ValueError, TypeError: a shape or dtype is not as above; names the argument.
    Cost: 6 K V FLOP and two passes over the state per head.
    Source: Yang et al. 2024, arXiv:2406.06484, section 2.2.
    """
    checks.check_state("state", state, checks.check_inputs("B H", q, k, v, beta), q.dtype)

    scale = q.shape[-1] ** -0.5 if scale is None else scale
    dtype = v.dtype
    q, k, v, beta = (x.astype(state.dtype) for x in (q, k, v, beta))
    # What q reads of the new state is what it reads of the old one and of the update: the state is
    # passed over once for both sums and once to change it.
    held = jnp.sum(k[..., None] * state, axis=-2)
    read = jnp.sum(q[..., None] * state, axis=-2)
    update = beta[..., None] * (v - held)
    read = read + jnp.sum(q * k, axis=-1, keepdims=True) * update
    return (scale * read).astype(dtype), state + k[..., None] * update[..., None, :]
