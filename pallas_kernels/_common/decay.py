# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Products of decay factors inside a chunk, from their logarithms g <= 0.

Every function sums the logarithms between two tokens directly, and never as a difference of two
cumulative sums: so every exponent is <= 0 (no overflow, however strong the decay), a strong decay
costs its neighbours no digits, and g = -inf (the state is erased) works.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def decay_from_start(g: Float[Array, "*L C D"]) -> Float[Array, "*L C D"]:
    """exp(g_1 + ... + g_i): what of the chunk's incoming state token i sees."""
    return jnp.exp(jnp.cumsum(g, axis=-2))


def decay_to_end(g: Float[Array, "*L C D"]) -> Float[Array, "*L C D"]:
    """exp(g_{j+1} + ... + g_C): what of token j's write reaches the chunk's outgoing state."""
    later = jnp.concatenate([g[..., 1:, :], jnp.zeros_like(g[..., :1, :])], axis=-2)
    return jnp.exp(jax.lax.cumsum(later, axis=later.ndim - 2, reverse=True))


def decay_between(g: Float[Array, "*L C"]) -> Float[Array, "*L C C"]:
    """exp(g_{j+1} + ... + g_i) for i >= j, else 0: what of token j's write token i sees."""
    size = g.shape[-1]
    steps = jnp.broadcast_to(g[..., :, None], (*g.shape, size))
    return jnp.tril(jnp.exp(jnp.cumsum(jnp.tril(steps, -1), axis=-2)))
