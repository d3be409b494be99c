# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The definition: one token after another, nothing clever."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pallas_kernels._common.precision import state_dtype
from pallas_kernels._common.segments import number_segments


def short_conv_reference(
    x: Float[Array, "B T D"],
    weight: Float[Array, "W D"],
    segments: Int[Array, "B T"] | None,
    *,
    activation: str,
    norm_size: int | None,
    norm_eps: float,
) -> Float[Array, "B T D"]:
    """`short_conv`, with `segments` as its segment_ids."""
    wide = state_dtype(x.dtype)
    ids = jnp.zeros(x.shape[:2], jnp.int32) if segments is None else number_segments(segments)
    weight = weight.astype(wide)

    def token(past, now):  # past: the W tokens up to this one, the newest first
        inputs_WBD, ids_WB = (
            jnp.concatenate([new[None], old[:-1]]) for new, old in zip(now, past, strict=True)
        )
        same = (ids_WB == ids_WB[:1])[:, :, None]
        y = jnp.sum(jnp.where(same, weight[:, None, :] * inputs_WBD, 0), axis=0)
        if activation == "silu":
            y = y * jax.nn.sigmoid(y)
        if norm_size is not None:
            groups = y.reshape(y.shape[0], -1, norm_size)
            squares = jnp.sum(groups * groups, axis=-1, keepdims=True)
            y = (groups / jnp.sqrt(squares + norm_eps)).reshape(y.shape)
        return (inputs_WBD, ids_WB), y

    none = (
        jnp.zeros_like(x, wide, (weight.shape[0], *x[:, 0].shape)),
        jnp.full_like(ids, -1, shape=(weight.shape[0], x.shape[0])),
    )
    tokens = (jnp.moveaxis(x.astype(wide), 1, 0), jnp.moveaxis(ids, 1, 0))
    _, y = jax.lax.scan(token, none, tokens)
    return jnp.moveaxis(y, 0, 1).astype(x.dtype)
