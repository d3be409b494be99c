# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Triton kernel of what depends on a chunk's tokens alone (README.md, eqs. 2 and 3)."""

from typing import no_type_check

import triton
import triton.language as tl

from pallas_kernels._common.triton_tiles import (
    dot,
    load_scalars,
    load_tokens,
    lower,
    rows_where,
    segments_of,
    store_tokens,
)
from pallas_kernels.gated_linear_attention.triton_decays import (
    across_border,
    decay,
    decay_between,
    decay_of_head,
    finite,
    from_start,
    to_border,
    to_end,
)


@triton.jit
@no_type_check
def prepare_kernel(
    q, k, g, segments, length, scale,
    reads, writes, scores, crosses,
    H: tl.constexpr, K: tl.constexpr, C: tl.constexpr, BK: tl.constexpr, LEVELS: tl.constexpr,
    DECAY: tl.constexpr, DTYPE: tl.constexpr, PRECISION: tl.constexpr, SINGLE: tl.constexpr,
    SEGMENTS: tl.constexpr,
):  # fmt: skip
    """Scores P [B H, N, C, C]; q that reads the incoming state and k that writes the outgoing one,
    [B, T, H, K]; what crosses the chunk, [B H, N, K] float32. Grid (B H, N).

    `scale` is in P and in `reads`. DECAY is "none", "head" or "channel", C is 2^LEVELS.
    """
    bh, n = tl.program_id(0), tl.program_id(1)
    row, head = bh // H, bh % H
    start = n * C
    index = bh.to(tl.int64) * tl.num_programs(1) + n
    i, j = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    ids = tl.zeros((C,), tl.int32)
    if SEGMENTS:
        ids, incoming, outgoing = segments_of(segments, row, start, length, C)
    if DECAY == "head":
        g_head = finite(load_scalars(g, row, head, start, length, H, C))
        to_here = decay_of_head(from_start(C), g_head)[:, None]
        from_here = decay_of_head(to_end(C), g_head)[:, None]
        total = tl.zeros((BK,), tl.float32) + tl.sum(g_head, axis=0)
    p = tl.zeros((C, C), tl.float32)
    for first in range(0, K, BK):
        q_tile = load_tokens(q, row, head, start, length, first, H, C, K, BK)
        k_tile = load_tokens(k, row, head, start, length, first, H, C, K, BK)
        if DECAY == "channel":
            g_tile = finite(load_tokens(g, row, head, start, length, first, H, C, K, BK))
            q_wide, k_wide = q_tile.to(tl.float32), k_tile.to(tl.float32)
            p += tl.where(i == j, tl.sum(q_wide * k_wide, axis=1)[:, None], 0.0)
            for level in range(LEVELS):
                between = decay(to_border(level, C), g_tile, SINGLE)
                product = dot(q_wide * between, tl.trans(k_wide * between), DTYPE, PRECISION)
                p += across_border(product, level, C)
            to_here = decay(from_start(C), g_tile, SINGLE)
            from_here = decay(to_end(C), g_tile, SINGLE)
            total = tl.sum(g_tile, axis=0)
        else:
            p += dot(q_tile, tl.trans(k_tile), DTYPE, PRECISION)
        read, write = scale * q_tile.to(tl.float32), k_tile.to(tl.float32)
        if DECAY == "none":
            cross = tl.full((BK,), 1.0, tl.float32)
        else:
            read, write, cross = read * to_here, write * from_here, tl.exp(total)
        if SEGMENTS:
            read, write = rows_where(ids == incoming, read), rows_where(ids == outgoing, write)
            cross = tl.where(incoming == outgoing, cross, 0.0)
        store_tokens(reads, read, row, head, start, length, first, H, C, K, BK)
        store_tokens(writes, write, row, head, start, length, first, H, C, K, BK)
        tl.store(crosses + index * K + first + tl.arange(0, BK), cross)
    if DECAY == "head":
        p *= decay_between(g_head, C, SINGLE)
    p = scale * lower(p, ids, C, False, SEGMENTS)
    tl.store(scores + (index * C + i) * C + j, p.to(scores.dtype.element_ty))
