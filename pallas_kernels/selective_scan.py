# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The selective scan: a state whose every number decays on its own (Mamba).

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

from pallas_kernels._common import checks, chunking
from pallas_kernels._common.precision import state_dtype
from pallas_kernels._common.segments import chunk_masks, number_segments, only

# Enough programs for a GPU; the states of a step, B x 16 x N x D, still fit its cache.
CHUNKS_ABREAST = 16


def selective_scan(
    x: Float[Array, "B T D"],
    dt: Float[Array, "B T D"],
    a: Float[Array, "N D"],
    b: Float[Array, "B T N"],
    c: Float[Array, "B T N"],
    *,
    initial_state: Float[Array, "B N D"] | None = None,
    segment_ids: Int[Array, "B T"] | None = None,
    chunk_size: int = 32,
) -> tuple[Float[Array, "B T D"], Float[Array, "B N D"]]:
    """Runs S_t = exp(dt_t A) * S_{t-1} + b_t (dt_t x_t)^T, y_t = S_t^T c_t over a sequence.

    Args:
        x: inputs [B, T, D] of one of float32, bfloat16, float16, float64. Any T >= 0.
        dt: time steps [B, T, D], >= 0 (not checked: a value), float32 (float64 for float64 x).
        a: A [N, D], <= 0 (not checked), of dt's dtype; exp(dt_t A)[n, d] = exp(dt_td A_nd).
        b, c: what writes and what reads, [B, T, N], x's dtype.
        initial_state: [B, N, D] in dt's dtype; zeros by default.
        segment_ids: [B, T] integers; a change of id is a boundary that nothing crosses. The initial
            state belongs to the first segment, the final one to the last.
        chunk_size: tokens a chunk, 16, 32, 64 or 128. Changes speed and rounding only.
    Returns:
        (y [B, T, D] in x.dtype, the state after the last token [B, N, D]).
    Raises:
        ValueError, TypeError: a shape, dtype or chunk_size is not as above; names the argument.
    Numerics: everything in dt's dtype; no exponent is positive. RMS error against the recurrence in
        float64 below 1e-5 for float32, 1e-2 for bfloat16, outputs and every gradient
        (tests/pallas_kernels/test_selective_scan.py).
    Cost: 9 T N D operations, 2 T N D of them exponentials. Gradients by autodiff, which keeps the
        inputs and a state every 16 chunks, and computes the rest again.
    Source: Gu, Dao 2023, arXiv:2312.00752, algorithm 2.
    """
    sizes = _check("B T", x, dt, a, b, c)
    if initial_state is None:
        initial_state = jnp.zeros([sizes[axis] for axis in "BND"], dt.dtype)
    _check_state("initial_state", initial_state, sizes, x)
    if segment_ids is not None:
        checks.check_segment_ids(segment_ids, sizes)
    checks.check_choice("chunk_size", chunk_size, chunking.CHUNK_SIZES)
    if x.shape[1] == 0:
        return x, initial_state
    return _scan(x, dt, a, b, c, initial_state, segment_ids, chunk_size)


def selective_scan_step(
    state: Float[Array, "B N D"],
    x: Float[Array, "B D"],
    dt: Float[Array, "B D"],
    a: Float[Array, "N D"],
    b: Float[Array, "B N"],
    c: Float[Array, "B N"],
) -> tuple[Float[Array, "B D"], Float[Array, "B N D"]]:
    """One token of `selective_scan`, for decoding: (y [B, D] in x.dtype, the new state).

    Args:
        state: what `selective_scan` returned, or zeros.
        x, dt, a, b, c: of one token, as there.
    Raises:
        ValueError, TypeError: a shape or dtype is not as above; names the argument.
    """
    sizes = _check("B", x, dt, a, b, c)
    _check_state("state", state, sizes, x)
    state, y = _token(state, x, dt, a, b, c)
    return y.astype(x.dtype), state


def _check(axes: str, x, dt, a, b, c) -> dict[str, int]:
    checks.check_rank("x", x, f"{axes} D")
    checks.check_rank("a", a, "N D")
    checks.check_float_dtype("x", x)
    sizes = dict(zip([*axes.split(), "D"], x.shape, strict=True)) | {"N": a.shape[0]}
    for name, y, its_axes in (("dt", dt, f"{axes} D"), ("a", a, "N D")):
        checks.check_shape(name, y, its_axes, sizes)
        checks.check_dtype(name, y, state_dtype(x.dtype))
    for name, y in (("b", b), ("c", c)):
        checks.check_shape(name, y, f"{axes} N", sizes)
        checks.check_same_dtype(name, y, "x", x)
    return sizes


def _check_state(name: str, state, sizes: dict[str, int], x) -> None:
    checks.check_shape(name, state, "B N D", sizes)
    checks.check_dtype(name, state, state_dtype(x.dtype))


def _token(state, x, dt, a, b, c, starts=None):
    """The recurrence: (S_t, y_t) in the state's dtype; leading axes are free. `starts` marks where
    a segment starts."""
    decay = jnp.exp(dt[..., None, :] * a[(None,) * (dt.ndim - 1)])
    if starts is not None:
        decay = only(decay, ~starts[..., None, None])
    b, c = (y.astype(state.dtype)[..., None] for y in (b, c))
    state = decay * state + b * (dt * x.astype(state.dtype))[..., None, :]
    return state, jnp.sum(c * state, axis=-2)


@jax.jit(static_argnums=7)
def _scan(x, dt, a, b, c, initial_state, segment_ids, chunk_size):
    batch, length, _ = x.shape
    abreast = min(CHUNKS_ABREAST, chunking.num_chunks(length, chunk_size))
    block_size = abreast * chunk_size

    def in_blocks(y):
        """[B, T, ...] -> [blocks, B, chunks, C, ...]; padding has dt = 0: it changes no state."""
        y = chunking.split_heads(y[:, :, None], block_size)[:, :, 0]
        return y.reshape(*y.shape[:2], abreast, chunk_size, *y.shape[3:])

    marks = None
    if segment_ids is not None:
        segments = number_segments(segment_ids)
        missing = chunking.num_chunks(length, block_size) * block_size - length
        segments = jnp.pad(segments, ((0, 0), (0, missing)), mode="edge")
        masks = chunk_masks(segments, chunk_size)
        starts = jnp.diff(segments, axis=1, prepend=0) != 0
        reads, keeps = masks.reads[:, :, 0, :, 0], masks.keeps[:, :, 0, 0, 0]
        blocks = -1, abreast, batch  # chunks come first in masks
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
    y = jnp.moveaxis(y, 1, 0).reshape(batch, -1, x.shape[-1])[:, :length]
    return y.astype(x.dtype), final_state


def _block(state_BND, a, x, dt, b, c, marks):
    """(state after, read-outs [B, P, C, D]) of P chunks; inputs [B, P, C, ...]."""
    starts, reads, keeps = (None, None, None) if marks is None else marks
    batch, chunks = x.shape[:2]

    @jax.checkpoint  # keeps the states and not what makes them
    def token(state_BPND, inputs):
        x, dt, b, c, starts = inputs
        return _token(state_BPND, x, dt, a, b, c, starts)

    empty = jnp.zeros((batch, chunks, *a.shape), dt.dtype)
    by_token = jax.tree.map(lambda y: jnp.moveaxis(y, 2, 0), (x, dt, b, c, starts))
    written, y = jax.lax.scan(token, empty, by_token)

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
