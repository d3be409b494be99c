# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Triton kernel of what else depends on a chunk's tokens alone; parallel over chunks.

With E = V - K S, eq. 20 is D = E - N B E = D0 - W S, where

    W = K - N B K        D0 = V - N B V        (K of W: those that see the incoming state)

so that two products a chunk are left to the serial pass.
"""

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
    tile,
)


@triton.jit
@no_type_check
def prepare_kernel(
    q, k, v, beta, segments, correction, lost, length,
    w, d0, scores,
    H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, C: tl.constexpr,
    BK: tl.constexpr, BV: tl.constexpr,
    DTYPE: tl.constexpr, PRECISION: tl.constexpr, SPLIT: tl.constexpr, SEGMENTS: tl.constexpr,
):  # fmt: skip
    """W [B H, N, C, K], D0 [B H, N, C, V] and P [B H, N, C, C] (eq. 19). Grid (B H, N)."""
    bh, n = tl.program_id(0), tl.program_id(1)
    row, head = bh // H, bh % H
    start = n * C
    index = bh * tl.num_programs(1) + n
    ids = tl.zeros((C,), tl.int32)
    if SEGMENTS:
        ids, incoming, _ = segments_of(segments, row, start, length, C)
    b = load_scalars(beta, row, head, start, length, H, C)[:, None]
    square = tile(index, 0, 0, C, C, C, C)
    n_tile = tl.load(correction + square)
    if SPLIT:
        n_lost = tl.load(lost + square)
    reads = tl.zeros((C, C), tl.float32)
    for column in range(0, K, BK):
        k_block = load_tokens(k, row, head, start, length, column, H, C, K, BK)
        q_block = load_tokens(q, row, head, start, length, column, H, C, K, BK)
        reads += dot(q_block, tl.trans(k_block), DTYPE, PRECISION)
        if SEGMENTS:
            k_block = rows_where(ids == incoming, k_block)
        x = k_block.to(tl.float32)
        written = (b * x).to(DTYPE)
        x -= dot(n_tile, written, DTYPE, PRECISION)
        if SPLIT:
            x -= dot(n_lost, written, DTYPE, PRECISION)
        tl.store(w + tile(index, 0, column, C, C, K, BK), x.to(DTYPE))
    reads = lower(reads, ids, C, False, SEGMENTS)
    tl.store(scores + square, reads.to(DTYPE))
    for column in range(0, V, BV):
        x = load_tokens(v, row, head, start, length, column, H, C, V, BV).to(tl.float32)
        written = (b * x).to(DTYPE)
        x -= dot(n_tile, written, DTYPE, PRECISION)
        if SPLIT:
            x -= dot(n_lost, written, DTYPE, PRECISION)
        tl.store(d0 + tile(index, 0, column, C, C, V, BV), x.to(DTYPE))
