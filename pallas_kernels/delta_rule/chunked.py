# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The chunkwise (WY) form of the delta rule in plain JAX: forward and backward.

Runs on any platform; the second opinion for GPU kernels. Everything of a chunk that does not
depend on the state is computed for all chunks at once as large matrix products; a scan over
chunks carries the state with two products a chunk. How the pieces become one differentiable
function is vjp.py's business; shapes and defaults are api.py's.

Axes: N chunks, B batch, H heads, C tokens of a chunk, K and V head sizes. Equation numbers are
README.md's.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pallas_kernels._common import chunking
from pallas_kernels._common.precision import matmul, state_dtype
from pallas_kernels._common.segments import ChunkMasks, chunk_masks, lower, only
from pallas_kernels.delta_rule import wy


class Chunks(NamedTuple):
    """Everything of all chunks that does not depend on the state."""

    q: jax.Array  # [N, B, H, C, K]
    k: jax.Array  # [N, B, H, C, K]
    v: jax.Array  # [N, B, H, C, V]
    beta: jax.Array  # [N, B, H, C, 1], state dtype
    gram: jax.Array  # [N, B, H, C, C]: K K^T
    tril_inverse: jax.Array  # [N, B, H, C, C]: (I + A)^-1, state dtype
    scores: jax.Array  # [N, B, H, C, C]: P = scale tril(Q K^T)
    w: jax.Array  # [N, B, H, C, K]: what the chunk subtracts from the state's reading
    u: jax.Array  # [N, B, H, C, V]: pseudo-values if the incoming state were zero
    q_reads: jax.Array  # q, zero where the token does not see the incoming state
    k_reads: jax.Array  # k, likewise
    k_writes: jax.Array  # k, zero where the token does not reach the outgoing state
    masks: ChunkMasks | None
    decay: jax.Array | None  # [N, B, H, 1 or K, 1]: factor on the state that crosses; None is 1


def prepare(q, k, v, beta, segments, *, scale: float, chunk_size: int) -> Chunks:
    """Eqs. 3-5 for all chunks at once."""
    dtype = v.dtype
    q, k, v = (chunking.split_heads(x, chunk_size) for x in (q, k, v))
    beta = chunking.split_heads(beta, chunk_size)[..., None].astype(state_dtype(dtype))
    masks = None if segments is None else chunk_masks(segments, chunk_size)

    return assemble(
        q,
        k,
        v,
        beta,
        gram=matmul("...ik,...jk->...ij", k, k, input_dtype=dtype),
        scores=scale * matmul("...ik,...jk->...ij", q, k, input_dtype=dtype),
        q_reads=q,
        k_reads=k,
        k_writes=k,
        masks=masks,
    )


def assemble(
    q, k, v, beta, *, gram, scores, q_reads, k_reads, k_writes, masks, decay=None
) -> Chunks:
    """What follows from products of keys with keys and queries: inverse, w, u, masks. `gram` and
    `scores` need not be triangular, nor what reads and writes the state masked."""
    dtype = v.dtype
    tril_inverse = wy.unit_lower_inverse(lower(beta * gram, masks, strict=True))
    if masks is not None:
        q_reads, k_reads = only(q_reads, masks.reads), only(k_reads, masks.reads)
        k_writes = only(k_writes, masks.writes)
    return Chunks(
        q=q,
        k=k,
        v=v,
        beta=beta,
        gram=gram,
        tril_inverse=tril_inverse,
        scores=lower(scores, masks, strict=False),
        w=matmul("...ij,...jk->...ik", tril_inverse, beta * k_reads, input_dtype=dtype),
        u=matmul("...ij,...jv->...iv", tril_inverse, beta * v, input_dtype=dtype),
        q_reads=q_reads,
        k_reads=k_reads,
        k_writes=k_writes,
        masks=masks,
        decay=decay,
    )


def _pass_on(state: jax.Array, masks: ChunkMasks | None) -> jax.Array:
    """What of a chunk's incoming state (or of its outgoing cotangent) crosses the chunk."""
    return state if masks is None else only(state, masks.keeps)


def _chunk_states(chunks: Chunks, initial_state, dtype):
    """Eqs. 6 and 8: pseudo-values and incoming state of every chunk, and the final state."""

    def chunk(state_BHKV, inputs):
        w, u, k_writes, masks, decay = inputs
        pseudo_values = u - matmul("bhck,bhkv->bhcv", w, state_BHKV, input_dtype=dtype)
        written = matmul("bhck,bhcv->bhkv", k_writes, pseudo_values, input_dtype=dtype)
        kept = _pass_on(state_BHKV, masks)
        kept = kept if decay is None else decay * kept
        return kept + written, (pseudo_values, state_BHKV)

    per_chunk = (chunks.w, chunks.u, chunks.k_writes, chunks.masks, chunks.decay)
    return jax.lax.scan(chunk, initial_state, per_chunk)


def run(
    chunks: Chunks, initial_state: Float[Array, "B H K V"], *, scale: float, length: int
) -> tuple[Float[Array, "B T H V"], Float[Array, "B H K V"]]:
    """Eqs. 6-8: output of `length` tokens and final state of prepared chunks."""
    dtype = chunks.v.dtype
    final_state, (pseudo_values, states) = _chunk_states(chunks, initial_state, dtype)
    read = matmul("...ck,...kv->...cv", chunks.q_reads, states, input_dtype=dtype)
    output = scale * read + matmul(
        "...ij,...jv->...iv", chunks.scores, pseudo_values, input_dtype=dtype
    )
    return chunking.join_heads(output, length).astype(dtype), final_state


def forward(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B T H K"],
    v: Float[Array, "B T H V"],
    beta: Float[Array, "B T H"],
    initial_state: Float[Array, "B H K V"],
    segments: Int[Array, "B T"] | None,
    *,
    scale: float,
    chunk_size: int,
) -> tuple[Float[Array, "B T H V"], Float[Array, "B H K V"]]:
    """The chunkwise forward pass (eqs. 3-8); `segments` number each row's segments from 0."""
    if q.shape[1] == 0:
        return v, initial_state
    chunks = prepare(q, k, v, beta, segments, scale=scale, chunk_size=chunk_size)
    return run(chunks, initial_state, scale=scale, length=q.shape[1])


def backward(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B T H K"],
    v: Float[Array, "B T H V"],
    beta: Float[Array, "B T H"],
    initial_state: Float[Array, "B H K V"],
    segments: Int[Array, "B T"] | None,
    do: Float[Array, "B T H V"],
    dfinal_state: Float[Array, "B H K V"],
    *,
    scale: float,
    chunk_size: int,
) -> tuple[
    Float[Array, "B T H K"],
    Float[Array, "B T H K"],
    Float[Array, "B T H V"],
    Float[Array, "B T H"],
    Float[Array, "B H K V"],
]:
    """The chunkwise backward pass (eqs. 10-18): gradients of q, k, v, beta, initial_state.

    Recomputes inverses and chunk states from the inputs (one state a chunk lives during the call,
    none between forward and backward). The serial part is only dU -> dX -> dS.
    """
    length = q.shape[1]
    if length == 0:
        zeros = [jnp.zeros_like(x) for x in (q, k, v, beta)]
        return *zeros, dfinal_state
    dtype = v.dtype
    chunks = prepare(q, k, v, beta, segments, scale=scale, chunk_size=chunk_size)
    _, (pseudo_values, states) = _chunk_states(chunks, initial_state, dtype)
    do = chunking.split_heads(do, chunk_size)
    masks = chunks.masks

    def mm(subscripts, x, y):
        return matmul(subscripts, x, y, input_dtype=dtype)

    # What reaches U and dS from this chunk's outputs alone, for all chunks at once.
    du_local = mm("...ij,...iv->...jv", chunks.scores, do)
    dstate_local = scale * mm("...ck,...cv->...kv", chunks.q_reads, do)

    def chunk(dstate_BHKV, inputs):
        tril_inverse, beta_n, k_reads, k_writes, du_n, dstate_n, masks_n = inputs
        du = du_n + mm("bhck,bhkv->bhcv", k_writes, dstate_BHKV)
        dx = mm("bhij,bhiv->bhjv", tril_inverse, du)
        dprevious = (
            _pass_on(dstate_BHKV, masks_n) + dstate_n - mm("bhck,bhcv->bhkv", k_reads, beta_n * dx)
        )
        return dprevious, (dx, dstate_BHKV)

    dinitial_state, (dx, dstates) = jax.lax.scan(
        chunk,
        dfinal_state,
        (
            chunks.tril_inverse,
            chunks.beta,
            chunks.k_reads,
            chunks.k_writes,
            du_local,
            dstate_local,
            masks,
        ),
        reverse=True,
    )

    # Everything else is parallel over chunks.
    dscores = scale * lower(mm("...iv,...jv->...ij", do, pseudo_values), masks, strict=False)
    da = -lower(mm("...iv,...jv->...ij", dx, pseudo_values), masks, strict=True)
    dv = chunks.beta * dx
    error = chunks.v - mm("...ck,...kv->...cv", chunks.k_reads, states)
    dbeta = jnp.sum(dx * error, axis=-1) + jnp.sum(da * chunks.gram, axis=-1)
    dgram = chunks.beta * da
    dk_read = -mm("...cv,...kv->...ck", dv, states)
    dk_write = mm("...cv,...kv->...ck", pseudo_values, dstates)
    dq_read = scale * mm("...cv,...kv->...ck", do, states)
    if masks is not None:
        dk_read, dq_read = only(dk_read, masks.reads), only(dq_read, masks.reads)
        dk_write = only(dk_write, masks.writes)
    dk = (
        dk_read
        + dk_write
        + mm("...ij,...jk->...ik", dgram + jnp.swapaxes(dgram, -1, -2), chunks.k)
        + mm("...ij,...ik->...jk", dscores, chunks.q)
    )
    dq = dq_read + mm("...ij,...jk->...ik", dscores, chunks.k)

    dq, dk, dv, dbeta = (chunking.join_heads(x, length).astype(dtype) for x in (dq, dk, dv, dbeta))
    return dq, dk, dv, dbeta, dinitial_state
