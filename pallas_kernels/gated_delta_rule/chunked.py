# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The chunkwise form of the gated delta rule in plain JAX: the plain rule's chunks, decayed.

The triangular inverse is the ungated one (README.md, eq. 3), so delta_rule/chunked.py prepares the
chunks and runs them; between the two this file puts decay factors onto what it prepared.
"""

import functools

import jax
from jaxtyping import Array, Float, Int

from pallas_kernels._common import chunking
from pallas_kernels._common.decay import decay_between, decay_from_start, decay_to_end
from pallas_kernels._common.precision import matmul
from pallas_kernels.delta_rule import chunked as delta_rule


def gated_delta_rule_chunked(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B T H K"],
    v: Float[Array, "B T H V"],
    g: Float[Array, "B T H"],
    beta: Float[Array, "B T H"],
    initial_state: Float[Array, "B H K V"],
    segments: Int[Array, "B T"] | None,
    *,
    scale: float,
    chunk_size: int,
) -> tuple[Float[Array, "B T H V"], Float[Array, "B H K V"]]:
    """Eqs. 2-6; `segments` number each row's segments from 0.

    The backward pass is JAX's, of a forward pass computed again: its residuals are the inputs.
    """
    if q.shape[1] == 0:
        return v, initial_state
    forward = functools.partial(_forward, scale=scale, chunk_size=chunk_size)
    return jax.checkpoint(forward)(q, k, v, g, beta, initial_state, segments)


def _forward(q, k, v, g, beta, initial_state, segments, *, scale, chunk_size):
    plain = delta_rule.prepare(q, k, v, beta, segments, scale=scale, chunk_size=chunk_size)
    # Padding has g = 0: it leaves the state as it is.
    g = chunking.split_heads(g, chunk_size)
    between = decay_between(g)
    from_start, to_end = decay_from_start(g[..., None]), decay_to_end(g[..., None])
    chunks = plain._replace(
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
    return delta_rule.run(chunks, initial_state, scale=scale, length=q.shape[1])
