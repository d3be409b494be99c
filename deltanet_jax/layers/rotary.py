# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Rotary positions (Su et al. 2021, arXiv:2104.09864)."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def rotate(
    x: Float[Array, "B T H K"], positions: Int[Array, "B T"], base: float
) -> Float[Array, "B T H K"]:
    """Rotary position embedding, halves convention, computed in float32 (float64 for float64)."""
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    half = x.shape[-1] // 2
    frequencies = base ** (-jnp.arange(half, dtype=dtype) / half)
    angles = positions[..., None, None].astype(dtype) * frequencies[None, None, None, :]
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    a, b = x[..., :half].astype(dtype), x[..., half:].astype(dtype)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)
