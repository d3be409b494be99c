# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The chunkwise form of the gated delta rule in plain JAX: the plain rule's chunks, decayed.

With one decay a head the triangular inverse is the ungated one (README.md, eq. 3), so
delta_rule/chunked.py prepares the chunks and runs them; between the two this file puts decay
factors onto what it prepared. With one decay a channel of the keys the inverse is another one
(eq. 7), and this file prepares the chunks itself.
"""

import jax
from jaxtyping import Array, Float, Int

from pallas_kernels._common import chunking
from pallas_kernels._common.decay import decay_between, decay_from_start, decay_to_end
from pallas_kernels._common.precision import matmul, state_dtype
from pallas_kernels._common.segments import chunk_masks
from pallas_kernels.delta_rule import chunked as delta_rule
from pallas_kernels.gated_linear_attention.chunked import decayed_scores


def gated_delta_rule_chunked(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B T H K"],
    v: Float[Array, "B T H V"],
    g: Float[Array, "B T H"] | Float[Array, "B T H K"],
    beta: Float[Array, "B T H"],
    initial_state: Float[Array, "B H K V"],
    segments: Int[Array, "B T"] | None,
    *,
    scale: float,
    chunk_size: int,
) -> tuple[Float[Array, "B T H V"], Float[Array, "B H K V"]]:
    """Eqs. 2-6, or 7-10; `segments` number each row's segments from 0.

    The backward pass is JAX's, of a forward pass computed again: its residuals are the inputs.
    """
    if q.shape[1] == 0:
        return v, initial_state

    prepare = _prepare if g.ndim == 3 else _prepare_by_channel

    def forward(initial_state, *inputs):
        chunks = prepare(*inputs, scale=scale, chunk_size=chunk_size)
        return delta_rule.run(chunks, initial_state, scale=scale, length=q.shape[1])

    return jax.checkpoint(forward)(initial_state, q, k, v, g, beta, segments)


def _prepare(q, k, v, g, beta, segments, *, scale, chunk_size) -> delta_rule.Chunks:
    """Eqs. 2-6: one decay a head."""
    plain = delta_rule.prepare(q, k, v, beta, segments, scale=scale, chunk_size=chunk_size)
    # Padding has g = 0: it leaves the state as it is.
    g = chunking.split_heads(g, chunk_size)
    between = decay_between(g)
    from_start, to_end = decay_from_start(g[..., None]), decay_to_end(g[..., None])
    return plain._replace(
        w=from_start * plain.w,
        u=matmul(
            "...ij,...jv->...iv",
            between * plain.tril_inverse,
            plain.beta * plain.v,
            input_dtype=v.dtype,
        ),
        scores=between * plain.scores,
        q_reads=from_start * plain.q_reads,
        k_writes=to_end * plain.k_writes,
        decay=from_start[..., -1:, :],
    )


def _prepare_by_channel(q, k, v, g, beta, segments, *, scale, chunk_size) -> delta_rule.Chunks:
    """Eqs. 7-10: one decay a channel of the keys."""
    dtype, wide = v.dtype, state_dtype(v.dtype)
    q, k, v, g, beta = (chunking.split_heads(x, chunk_size) for x in (q, k, v, g, beta))
    beta = beta[..., None].astype(wide)
    masks = None if segments is None else chunk_masks(segments, chunk_size)
    from_start = decay_from_start(g)
    q_wide, k_wide = q.astype(wide), k.astype(wide)
    return delta_rule.assemble(
        q,
        k,
        v,
        beta,
        gram=decayed_scores(k_wide, k_wide, g, input_dtype=dtype),
        scores=scale * decayed_scores(q_wide, k_wide, g, input_dtype=dtype),
        q_reads=q * from_start,
        k_reads=k * from_start,
        k_writes=k * decay_to_end(g),
        masks=masks,
        decay=from_start[..., -1, :, None],
    )
