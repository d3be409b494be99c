# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The chunkwise form of linear attention, with and without decay, in plain JAX.

Everything but the sum of states is parallel over chunks; the scan over them multiplies and adds.
Equation numbers are README.md's.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pallas_kernels._common import chunking
from pallas_kernels._common.decay import decay_between, decay_from_start, decay_to_end
from pallas_kernels._common.precision import matmul
from pallas_kernels._common.segments import chunk_masks, lower, only

# Blocks of scores below this are sums of products: too small for a matrix product.
SMALLEST_PRODUCT = 16


def forward(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B T H K"],
    v: Float[Array, "B T H V"],
    g: Float[Array, "B T H K_or_1"] | None,
    initial_state: Float[Array, "B H K V"],
    segments: Int[Array, "B T"] | None,
    *,
    scale: float,
    chunk_size: int,
) -> tuple[Float[Array, "B T H V"], Float[Array, "B H K V"]]:
    """Eqs. 2-4; `g` None is no decay; `segments` number each row's segments from 0."""
    length, dtype = q.shape[1], v.dtype
    if length == 0:
        return v, initial_state
    masks = None if segments is None else chunk_masks(segments, chunk_size)
    q, k, v = (chunking.split_heads(x, chunk_size) for x in (q, k, v))
    scores, q_reads, k_writes, crosses = _decayed(q, k, g, chunk_size, dtype)
    if masks is not None:
        q_reads, k_writes = only(q_reads, masks.reads), only(k_writes, masks.writes)
    written = matmul("...ck,...cv->...kv", k_writes, v, input_dtype=dtype)

    def chunk(state_BHKV, inputs):
        written_BHKV, crosses, keeps = inputs
        kept = state_BHKV if keeps is None else only(state_BHKV, keeps)
        kept = kept if crosses is None else crosses * kept
        return kept + written_BHKV, state_BHKV

    keeps = None if masks is None else masks.keeps
    final_state, states = jax.lax.scan(chunk, initial_state, (written, crosses, keeps))
    scores = lower(scores, masks, strict=False)
    output = matmul("...ck,...kv->...cv", q_reads, states, input_dtype=dtype)
    output = output + matmul("...ij,...jv->...iv", scores, v, input_dtype=dtype)
    return chunking.join_heads(scale * output, length).astype(dtype), final_state


def gated_linear_attention_chunked(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B T H K"],
    v: Float[Array, "B T H V"],
    g: Float[Array, "B T H K_or_1"],
    initial_state: Float[Array, "B H K V"],
    segments: Int[Array, "B T"] | None,
    *,
    scale: float,
    chunk_size: int,
) -> tuple[Float[Array, "B T H V"], Float[Array, "B H K V"]]:
    """`forward`, whose backward pass finds its inputs only and computes the rest again."""
    run = functools.partial(forward, scale=scale, chunk_size=chunk_size)
    return jax.checkpoint(run)(q, k, v, g, initial_state, segments)


def _decayed(q, k, g, chunk_size, dtype):
    """Scores, the q that reads the incoming state, the k that writes the outgoing one, and what of
    the former crosses the chunk, [N, B, H, K or 1, 1] (None is all)."""
    if g is None:
        return matmul("...ik,...jk->...ij", q, k, input_dtype=dtype), q, k, None
    # Padding has g = 0: it leaves the state as it is.
    g = chunking.split_heads(g, chunk_size)
    if g.shape[-1] == q.shape[-1]:
        scores = decayed_scores(q.astype(g.dtype), k.astype(g.dtype), g, input_dtype=dtype)
    else:  # one decay a head comes out of the sum over K
        scores = matmul("...ik,...jk->...ij", q, k, input_dtype=dtype)
        scores = scores * decay_between(g[..., 0])
    from_start = decay_from_start(g)
    return scores, q * from_start, k * decay_to_end(g), from_start[..., -1, :, None]


def decayed_scores(
    q: Float[Array, "*L C K"],
    k: Float[Array, "*L C K"],
    g: Float[Array, "*L C K"],
    *,
    input_dtype: jax.typing.DTypeLike,
) -> Float[Array, "*L C C"]:
    """sum_k q_ik k_jk exp(g_{j+1,k} + ... + g_ik) for i >= j, else 0 (eq. 2).

    By halves: between a later and an earlier half the exponent is a sum of two terms <= 0, from the
    border to i and from j to the border, so their scores are a product of decayed q and decayed k.
    Inside the halves likewise. C is a power of two.
    """
    size = q.shape[-2]
    if size == 1:
        return jnp.sum(q * k, axis=-1, keepdims=True)
    half = size // 2
    q, k, g = (x.reshape(*x.shape[:-2], 2, half, x.shape[-1]) for x in (q, k, g))
    inside = decayed_scores(q, k, g, input_dtype=input_dtype)
    later_q = q[..., 1, :, :] * decay_from_start(g[..., 1, :, :])
    earlier_k = k[..., 0, :, :] * decay_to_end(g[..., 0, :, :])
    if half < SMALLEST_PRODUCT:
        between = jnp.sum(later_q[..., :, None, :] * earlier_k[..., None, :, :], axis=-1)
    else:
        between = matmul("...ik,...jk->...ij", later_q, earlier_k, input_dtype=input_dtype)
    top = jnp.concatenate([inside[..., 0, :, :], jnp.zeros_like(between)], axis=-1)
    bottom = jnp.concatenate([between, inside[..., 1, :, :]], axis=-1)
    return jnp.concatenate([top, bottom], axis=-2)
