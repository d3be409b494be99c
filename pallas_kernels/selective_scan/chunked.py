# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The selective scan in plain JAX, chunks side by side.

The recurrence is a composition of maps S -> a * S + b, and so associative, but a state is N times
as wide as an input: an associative scan over all tokens would move [B, T, N, D] arrays at each of
its levels. So chunks are scanned side by side, each from an empty state; the states that enter them
follow from one map a chunk, exp(A sum(dt)) and the chunk's own final state; and what those add to
the read-outs is one sum over N. C + T / C dependent steps stand for T, and of [B, T, N, D] numbers
a block of CHUNKS_ABREAST chunks is in memory at a time, backward too.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pallas_kernels._common import chunking
from pallas_kernels._common.segments import chunk_masks, only

# Enough programs for a GPU; the states of a step, B x 16 x N x D, still fit its cache.
CHUNKS_ABREAST = 16


def token(state, x, dt, a, b, c, starts=None):
    """The recurrence: (S_t, y_t) in the state's dtype; leading axes are free. `starts` marks where
    a segment starts."""
    decay = jnp.exp(dt[..., None, :] * a[(None,) * (dt.ndim - 1)])
    if starts is not None:
        decay = only(decay, ~starts[..., None, None])
    b, c = (y.astype(state.dtype)[..., None] for y in (b, c))
    state = decay * state + b * (dt * x.astype(state.dtype))[..., None, :]
    return state, jnp.sum(c * state, axis=-2)


def selective_scan_chunked(
    x: Float[Array, "B T D"],
    dt: Float[Array, "B T D"],
    a: Float[Array, "N D"],
    b: Float[Array, "B T N"],
    c: Float[Array, "B T N"],
    initial_state: Float[Array, "B N D"],
    segments: Int[Array, "B T"] | None,
    *,
    chunk_size: int,
) -> tuple[Float[Array, "B T D"], Float[Array, "B N D"]]:
    """`selective_scan`; `segments` number each row's segments from 0."""
    batch, length, _ = x.shape
    if length == 0:
        return x, initial_state
    abreast = min(CHUNKS_ABREAST, chunking.num_chunks(length, chunk_size))
    block_size = abreast * chunk_size
    padded = chunking.num_chunks(length, block_size) * block_size

    def in_blocks(y):
        """[B, T, ...] -> [blocks, B, chunks, C, ...]; padding has dt = 0: it changes no state."""
        y = chunking.split_heads(y[:, :, None], block_size)[:, :, 0]
        return y.reshape(*y.shape[:2], abreast, chunk_size, *y.shape[3:])

    marks = None
    if segments is not None:
        segments = jnp.pad(segments, ((0, 0), (0, padded - length)), mode="edge")
        masks = chunk_masks(segments, chunk_size)
        starts = jnp.diff(segments, axis=1, prepend=0) != 0
        reads, keeps = masks.reads[:, :, 0, :, 0], masks.keeps[:, :, 0, 0, 0]
        blocks = padded // block_size, abreast, batch  # chunks come first in masks
        reads = reads.reshape(*blocks, chunk_size)
        keeps = keeps.reshape(blocks)
        marks = (
            in_blocks(starts.astype(dt.dtype)) > 0,
            jnp.swapaxes(reads, 1, 2),
            jnp.swapaxes(keeps, 1, 2),
        )

    @jax.checkpoint
    def block(state, inputs):
        return _block(state, a, *inputs)

    inputs = (*(in_blocks(y) for y in (x, dt, b, c)), marks)
    final_state, y = jax.lax.scan(block, initial_state, inputs)
    y = jnp.moveaxis(y, 1, 0).reshape(batch, padded, x.shape[-1])[:, :length]
    return y.astype(x.dtype), final_state


def _block(state_BND, a, x, dt, b, c, marks):
    """(state after, read-outs [B, P, C, D]) of P chunks; inputs [B, P, C, ...]."""
    starts, reads, keeps = (None, None, None) if marks is None else marks
    batch, chunks = x.shape[:2]

    @jax.checkpoint  # keeps the states and not what makes them
    def step(state_BPND, inputs):
        x, dt, b, c, starts = inputs
        return token(state_BPND, x, dt, a, b, c, starts)

    empty = jnp.zeros_like(dt, shape=(batch, chunks, *a.shape))
    by_token = jax.tree.map(lambda y: jnp.moveaxis(y, 2, 0), (x, dt, b, c, starts))
    written, y = jax.lax.scan(step, empty, by_token)

    elapsed = jnp.cumsum(dt, axis=2)
    crosses = jnp.exp(elapsed[:, :, -1, None] * a[None, None])
    if keeps is not None:
        crosses = only(crosses, keeps[..., None, None])

    def chunk(state_BND, inputs):
        crosses, written = inputs
        return crosses * state_BND + written, state_BND

    by_chunk = jax.tree.map(lambda y: jnp.moveaxis(y, 1, 0), (crosses, written))
    state_BND, entering = jax.lax.scan(chunk, state_BND, by_chunk)

    left = jnp.exp(elapsed[..., None, :] * a[None, None, None])
    left = left * jnp.moveaxis(entering, 0, 1)[:, :, None]
    read = jnp.sum(c.astype(dt.dtype)[..., None] * left, axis=-2)
    if reads is not None:
        read = only(read, reads[..., None])
    return state_BND, jnp.moveaxis(y, 0, 2) + read
