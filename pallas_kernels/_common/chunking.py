# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Cuts the time axis into chunks and joins them again; any length, any remainder.

Chunked arrays carry the chunk axis first (`N B H C D`), ready for a scan over chunks. The tail of
the last chunk is padded: with zeros for features (a token with beta = 0 and k = 0 neither writes
nor is read) and with the last id for segments (padding starts no segment of its own).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

CHUNK_SIZES = (16, 32, 64, 128)  # what operators take


def num_chunks(length: int, chunk_size: int) -> int:
    """Chunks of `chunk_size` that hold `length` tokens."""
    return -(-length // chunk_size)


def pad_axes(x: jax.Array, sizes: dict[int, int]) -> jax.Array:
    """Zero-pads the given axes to the given sizes."""
    widths = [(0, sizes.get(axis, size) - size) for axis, size in enumerate(x.shape)]
    return jnp.pad(x, widths) if any(w != (0, 0) for w in widths) else x


def _pad_time(x: jax.Array, chunk_size: int, mode: str) -> jax.Array:
    missing = num_chunks(x.shape[1], chunk_size) * chunk_size - x.shape[1]
    if missing == 0:
        return x
    return jnp.pad(x, [(0, 0), (0, missing)] + [(0, 0)] * (x.ndim - 2), mode=mode)


def split_heads(x: Float[Array, "B T H *D"], chunk_size: int) -> Float[Array, "N B H C *D"]:
    """[B, T, H, ...] -> [N, B, H, C, ...], zero-padded to whole chunks."""
    x = _pad_time(x, chunk_size, "constant")
    batch, length, heads, *rest = x.shape
    x = x.reshape(batch, length // chunk_size, chunk_size, heads, *rest)
    return jnp.moveaxis(x, (1, 3), (0, 2))


def join_heads(x: Float[Array, "N B H C *D"], length: int) -> Float[Array, "B T H *D"]:
    """The inverse of `split_heads`: [N, B, H, C, ...] -> [B, T, H, ...], padding cut off."""
    x = jnp.moveaxis(x, (0, 2), (1, 3))
    batch, chunks, chunk_size, heads, *rest = x.shape
    return x.reshape(batch, chunks * chunk_size, heads, *rest)[:, :length]


def split_segments(segments: Int[Array, "B T"], chunk_size: int) -> Int[Array, "N B C"]:
    """[B, T] -> [N, B, C], the tail padded with each row's last id."""
    segments = _pad_time(segments, chunk_size, "edge")
    batch, length = segments.shape
    return jnp.moveaxis(segments.reshape(batch, length // chunk_size, chunk_size), 1, 0)
