# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Segments (packed documents): how ids become boundaries, and boundaries masks over chunks."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from pallas_kernels._common import chunking


def number_segments(segment_ids: Int[Array, "B T"]) -> Int[Array, "B T"]:
    """Numbers each row's runs of equal ids 0, 1, 2, ..., so an id may come back later in a row."""
    if segment_ids.shape[1] < 2:  # no pairs, and eager XLA may crash on arrays of no numbers
        return jnp.zeros_like(segment_ids, jnp.int32)
    changes = segment_ids[:, 1:] != segment_ids[:, :-1]
    return jnp.pad(jnp.cumsum(changes, axis=1, dtype=jnp.int32), ((0, 0), (1, 0)))


class ChunkMasks(NamedTuple):
    """Where segments let the tokens of a chunk see each other and the carried state."""

    same: jax.Array  # [N, B, 1, C, C]: tokens i and j are of one segment
    reads: jax.Array  # [N, B, 1, C, 1]: the token's segment is the incoming state's
    writes: jax.Array  # [N, B, 1, C, 1]: the token's segment is the outgoing state's
    keeps: jax.Array  # [N, B, 1, 1, 1]: the incoming state survives the chunk


def chunk_masks(segments: Int[Array, "B T"], chunk_size: int) -> ChunkMasks:
    """Masks of all chunks from `number_segments`; segment 0 owns the initial state."""
    ids_NBC = chunking.split_segments(segments, chunk_size)
    # The state entering chunk n belongs to the last token of chunk n - 1.
    last_NB1 = ids_NBC[:, :, -1:]
    incoming_NB1 = jnp.concatenate([jnp.zeros_like(last_NB1[:1]), last_NB1[:-1]])
    return ChunkMasks(
        same=(ids_NBC[..., :, None] == ids_NBC[..., None, :])[:, :, None],
        reads=(ids_NBC == incoming_NB1)[:, :, None, :, None],
        writes=(ids_NBC == last_NB1)[:, :, None, :, None],
        keeps=(last_NB1 == incoming_NB1)[:, :, None, :, None],
    )


def lower(x: jax.Array, masks: ChunkMasks | None, *, strict: bool) -> jax.Array:
    """The (strictly) lower triangle of [N, B, H, C, C], within segments."""
    x = jnp.tril(x, -1 if strict else 0)
    return x if masks is None else only(x, masks.same)


def only(x: jax.Array, mask: jax.Array) -> jax.Array:
    """`x` where `mask`, else 0 of the same dtype."""
    return jnp.where(mask, x, jnp.zeros((), x.dtype))
