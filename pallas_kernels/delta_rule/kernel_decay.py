# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""What the Hopper kernels are told of a decay a head, and the decay's gradient.

The kernels multiply by these numbers where they otherwise let everything through (README.md, A
decay a head). The gradient is sums of what kernel_gradients.py leaves for every token.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pallas_kernels._common import chunking
from pallas_kernels._common.decay import decay_from_start, decay_to_end
from pallas_kernels.delta_rule.kernel_support import CHUNK

# exp of this is 0 in float32. Differences of sums of what is no less keep their digits.
ERASES = -110.0


def decay_rows(g: Float[Array, "B T H"]) -> Float[Array, "B H N 5 C"]:
    """A chunk's decays, of log decays g in [ERASES, 0]; past T nothing decays.

    With G the sums of g within the chunk, G_1 = g_1 to G_C: rows of exp(G_i), what of the incoming
    state token i sees; exp(G_C - G_i), what of its write the outgoing state sees; exp(G_C), what of
    the incoming state crosses the chunk, repeated; and G_i / ln 2 and -G_i / ln 2, two rows because
    the kernels load a row in one layout only.
    """
    g = jnp.moveaxis(chunking.split_heads(g, CHUNK), 0, 2)
    from_start, to_end = (f(g[..., None])[..., 0] for f in (decay_from_start, decay_to_end))
    crosses = jnp.broadcast_to(from_start[..., -1:], g.shape)
    sums = jnp.cumsum(g, axis=-1) / math.log(2)
    return jnp.stack([from_start, to_end, crosses, sums, -sums], axis=3)


def log_decay_gradient(
    shares: Float[Array, "B H N 4 C"],
    decays: Float[Array, "B H N 5 C"],
    marks: Float[Array, "B N 4 C"] | None,
    length: int,
) -> Float[Array, "B T H"]:
    """dg (README.md, eq. 33).

    Args:
        shares: of kernel_gradients.py.
        decays, marks: what the kernels were given.
        length: T.
    """
    between, reads_less_writes, written, kept = jnp.moveaxis(shares, 3, 0)
    crosses = decays[..., 2, 0]
    if marks is not None:
        crosses = crosses * marks[:, None, :, 2, 0]
    later = jax.lax.cumsum(between + reads_less_writes, axis=3, reverse=True)
    whole = crosses * jnp.sum(kept, axis=-1) + jnp.sum(written, axis=-1)
    dg = (later + whole[..., None]).reshape(*shares.shape[:2], -1)
    return jnp.swapaxes(dg, 1, 2)[:, :length]
