# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Normalisations of single vectors. Those with learned weights are Flax's."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


def rms_norm(
    size: int, *, eps: float, dtype: jax.typing.DTypeLike, param_dtype, rngs: nnx.Rngs
) -> nnx.RMSNorm:
    """RMSNorm over a last axis of `size`; statistics in float32, result in `dtype`."""
    return nnx.RMSNorm(size, epsilon=eps, dtype=dtype, param_dtype=param_dtype, rngs=rngs)


def layer_norm(
    size: int, *, eps: float, dtype: jax.typing.DTypeLike, param_dtype, rngs: nnx.Rngs
) -> nnx.LayerNorm:
    """LayerNorm over a last axis of `size`, with a bias; as `rms_norm` otherwise."""
    return nnx.LayerNorm(size, epsilon=eps, dtype=dtype, param_dtype=param_dtype, rngs=rngs)


# Norms of the residual stream, by the names that configs have for them.
STREAM_NORMS = {"rms": rms_norm, "layer": layer_norm}


def l2_norm(x: Float[Array, "*L K"], eps: float = 1e-6) -> Float[Array, "*L K"]:
    """x / sqrt(sum x^2 + eps) over the last axis, computed in float32, in x.dtype."""
    y = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return (y * jax.lax.rsqrt(jnp.sum(y * y, axis=-1, keepdims=True) + eps)).astype(x.dtype)


def l1_norm(x: Float[Array, "*L K"], eps: float = 1e-6) -> Float[Array, "*L K"]:
    """x / (sum |x| + eps) over the last axis, computed in float32, in x.dtype."""
    y = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return (y / (jnp.sum(jnp.abs(y), axis=-1, keepdims=True) + eps)).astype(x.dtype)
