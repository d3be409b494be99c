# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The convolution as a sum of shifted arrays, for any platform; derivatives by autodiff."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pallas_kernels._common.segments import number_segments


def short_conv_taps(
    x: Float[Array, "B T D"],
    weight: Float[Array, "W D"],
    segments: Int[Array, "B T"] | None,
    *,
    activation: str,
    norm_size: int | None,
    norm_eps: float,
) -> Float[Array, "B T D"]:
    """`short_conv`, with `segments` as its segment_ids.

    Sums in float32; activation and norm each start from what is rounded to x's dtype.
    """
    length, past = x.shape[1], weight.shape[0] - 1
    # Sums, also of the weight's gradient, in float32: 16 bits lose 1e-2 of it.
    wide = jnp.promote_types(x.dtype, jnp.float32)
    weight = weight.astype(wide)
    padded = jnp.pad(x, ((0, 0), (past, 0), (0, 0)))
    ids = None  # what is padded is zero, so it may be of the first segment
    if segments is not None:
        ids = jnp.pad(number_segments(segments), ((0, 0), (past, 0)))[:, :, None]
    y = jnp.zeros(x.shape, wide)
    for back in range(weight.shape[0]):
        tap = slice(past - back, past - back + length)
        term = padded[:, tap].astype(wide) * weight[back][None, None, :]
        if ids is not None and back > 0:
            term = jnp.where(ids[:, tap] == ids[:, past:], term, 0)
        y = y + term
    y = y.astype(x.dtype)
    if activation == "silu":
        y = jax.nn.silu(y)
    if norm_size is not None:
        groups = y.reshape(*y.shape[:2], -1, norm_size).astype(wide)
        scale = jax.lax.rsqrt(jnp.sum(groups * groups, axis=-1, keepdims=True) + norm_eps)
        y = (groups * scale).astype(x.dtype).reshape(x.shape)
    return y
