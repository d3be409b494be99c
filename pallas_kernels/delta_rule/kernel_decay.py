# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""What the Hopper kernels are told of a decay a head, and the decay's gradient.

The kernels multiply by these numbers where they otherwise let everything through (README.md, A
decay a head). The gradient is sums of what kernel_gradients.py leaves for every token.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pallas_kernels._common import chunking
from pallas_kernels._common.precision import matmul
from pallas_kernels.delta_rule.kernel_support import CHUNK

# exp of this is 0 in float32. Differences of sums of what is no less keep their digits.
ERASES = -110.0


class Decays(NamedTuple):
    """Of every chunk, float32, with G_i the sum of the chunk's first i log decays.

    Attributes:
        rows: exp(G_i), what of the incoming state token i sees; exp(G_C - G_i), what of its write
            the outgoing state sees; exp(G_C), what of the incoming state crosses the chunk,
            repeated; and, in the room that is left in a KiB of shared memory, beta.
        sums: G_i / ln 2 and -G_i / ln 2; two because kernels load a row in one layout only.
    """

    rows: Float[Array, "B H N 4 C"]
    sums: Float[Array, "B H N 2 C"]


def make_decays(g: Float[Array, "B T H"], beta: Float[Array, "B H T2"]) -> Decays:
    """From log decays in [ERASES, 0], and beta padded to whole chunks. Past T nothing decays."""
    g = jnp.moveaxis(chunking.split_heads(g, CHUNK), 0, 2)
    so_far = _sums(g, jnp.tril)
    from_start, to_end = jnp.exp(so_far), jnp.exp(_sums(g, functools.partial(jnp.triu, k=1)))
    crosses = jnp.broadcast_to(from_start[..., -1:], g.shape)
    sums = so_far / math.log(2)
    rows = [from_start, to_end, crosses, beta.reshape(g.shape)]
    return Decays(jnp.stack(rows, axis=3), jnp.stack([sums, -sums], axis=3))


def _sums(x: Float[Array, "*L C"], triangle: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """Of x over the tokens that `triangle` leaves of a row of ones. A product, because on GPUs a
    cumulative sum is several kernels."""
    ones = triangle(jnp.ones((CHUNK, CHUNK), x.dtype))
    return matmul("...j,ij->...i", x, ones, input_dtype=x.dtype)


def log_decay_gradient(
    shares: Float[Array, "B H N 4 C"],
    decays: Decays,
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
    crosses = decays.rows[..., 2, 0]
    if marks is not None:
        crosses = crosses * marks[:, None, :, 2, 0]
    later = _sums(between + reads_less_writes, jnp.triu)
    whole = crosses * jnp.sum(kept, axis=-1) + jnp.sum(written, axis=-1)
    dg = (later + whole[..., None]).reshape(*shares.shape[:2], -1)
    return jnp.swapaxes(dg, 1, 2)[:, :length]
