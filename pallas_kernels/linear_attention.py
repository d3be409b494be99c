# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Additive linear attention, chunkwise: the delta rule without the correction, for comparison."""

import jax
from jaxtyping import Array, Float, Int

from pallas_kernels._common import chunking
from pallas_kernels._common.arguments import check_arguments
from pallas_kernels._common.precision import matmul
from pallas_kernels._common.segments import chunk_masks, lower, only


def linear_attention(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B T H K"],
    v: Float[Array, "B T H V"],
    *,
    scale: float | None = None,
    initial_state: Float[Array, "B H K V"] | None = None,
    segment_ids: Int[Array, "B T"] | None = None,
    chunk_size: int = 64,
) -> tuple[Float[Array, "B T H V"], Float[Array, "B H K V"]]:
    """Runs S_t = S_{t-1} + k_t v_t^T, o_t = scale * S_t^T q_t over a sequence.

    Args:
        q, k: queries and keys after the feature map, [B, T, H, K].
        v: values, [B, T, H, V]. q, k, v share one of float32, bfloat16, float16, float64.
        scale, initial_state, segment_ids, chunk_size: as in `delta_rule`.
    Returns:
        (output [B, T, H, V] in v.dtype, final state [B, H, K, V] in float32, or float64).
    Raises:
        ValueError, TypeError: a shape, dtype or chunk_size is not as above; names the argument.
    Cost: 4 T K V + 2 T C (K + V) FLOP per head; T / C sequential steps. Gradients by autodiff,
        which stores one state a chunk.
    Source: Katharopoulos et al. 2020, arXiv:2006.16236; chunkwise: Yang et al. 2024,
        arXiv:2406.06484, section 2.1.
    """
    checked = check_arguments(
        q,
        k,
        v,
        scale=scale,
        initial_state=initial_state,
        segment_ids=segment_ids,
        chunk_size=chunk_size,
    )
    if checked.sizes["T"] == 0:
        return v, checked.initial_state
    segments = checked.segments
    masks = None if segments is None else chunk_masks(segments, chunk_size)

    dtype, length = v.dtype, q.shape[1]
    q, k, v = (chunking.split_heads(x, chunk_size) for x in (q, k, v))
    q_reads = q if masks is None else only(q, masks.reads)
    k_writes = k if masks is None else only(k, masks.writes)
    written = matmul("...ck,...cv->...kv", k_writes, v, input_dtype=dtype)

    def chunk(state_BHKV, inputs):
        written_BHKV, keeps = inputs
        kept = state_BHKV if keeps is None else only(state_BHKV, keeps)
        return kept + written_BHKV, state_BHKV

    keeps = None if masks is None else masks.keeps
    final_state, states = jax.lax.scan(chunk, checked.initial_state, (written, keeps))
    scores = lower(matmul("...ik,...jk->...ij", q, k, input_dtype=dtype), masks, strict=False)
    output = matmul("...ck,...kv->...cv", q_reads, states, input_dtype=dtype)
    output = output + matmul("...ij,...jv->...iv", scores, v, input_dtype=dtype)
    return chunking.join_heads(checked.scale * output, length).astype(dtype), final_state
