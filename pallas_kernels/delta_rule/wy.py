# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The triangular inverse of the WY form: (I + A)^-1 for strictly lower triangular A.

Why not powers of A: with keys that repeat and beta near 2 the powers grow before they vanish and
the sum cancels catastrophically (see README.md). Row substitution inside 16 x 16 blocks and exact
block merges 16 -> 32 -> 64 stay accurate there and are still matrix products.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pallas_kernels._common.precision import matmul

BLOCK = 16


def _invert_blocks(a: Float[Array, "*L 16 16"]) -> Float[Array, "*L 16 16"]:
    """Forward substitution by columns: once row r is solved, it is taken out of all rows below."""
    a = jnp.tril(a, -1)
    inverse = jnp.broadcast_to(jnp.eye(BLOCK, dtype=a.dtype), a.shape)
    for r in range(BLOCK - 1):
        # A product of a column and a row, element by element: exact float32.
        inverse = inverse - a[..., :, r : r + 1] * inverse[..., r : r + 1, :]
    return inverse


@jax.custom_jvp
def unit_lower_inverse(a: Float[Array, "*L C C"]) -> Float[Array, "*L C C"]:
    """Inverts I + A.

    Args:
        a: [..., C, C], strictly lower triangular (entries on and above the diagonal are not read),
            float32 or float64; C is 16 times a power of two.
    Returns:
        (I + A)^-1, unit lower triangular, same shape and dtype.
    Gradients: of any order, both modes, by dX = -X dA X: nothing of the substitution is kept.
    Source: Yang et al. 2024, arXiv:2406.06484, eq. 10 (the UT transform).
    """
    size = a.shape[-1]
    count = size // BLOCK
    tiles = a.reshape(*a.shape[:-2], count, BLOCK, count, BLOCK)
    diagonal = jnp.stack([tiles[..., i, :, i, :] for i in range(count)], axis=-3)
    inverse = _invert_blocks(diagonal)  # [..., count, 16, 16]

    # Merge pairs: [[P, 0], [L, R]]^-1 = [[P^-1, 0], [-R^-1 L P^-1, R^-1]].
    width = BLOCK
    while width < size:
        pairs = size // (2 * width)
        tiles = a.reshape(*a.shape[:-2], pairs, 2, width, pairs, 2, width)
        lower = jnp.stack([tiles[..., i, 1, :, i, 0, :] for i in range(pairs)], axis=-3)
        upper_inverse, lower_inverse = inverse[..., 0::2, :, :], inverse[..., 1::2, :, :]
        corner = -_product(lower_inverse, _product(lower, upper_inverse))
        top = jnp.concatenate([upper_inverse, jnp.zeros_like(corner)], axis=-1)
        bottom = jnp.concatenate([corner, lower_inverse], axis=-1)
        inverse = jnp.concatenate([top, bottom], axis=-2)
        width *= 2
    return inverse[..., 0, :, :]


@unit_lower_inverse.defjvp
def _unit_lower_inverse_jvp(primals, tangents):
    inverse = unit_lower_inverse(*primals)
    (da,) = tangents
    return inverse, -_product(inverse, _product(jnp.tril(da, -1), inverse))


def _product(x: jax.Array, y: jax.Array) -> jax.Array:
    return matmul("...ij,...jk->...ik", x, y, input_dtype=x.dtype)
