# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Triton kernel of everything that depends on a chunk's tokens alone; parallel over chunks.

With E = V - K S, eq. 20 is D = E - N B E = D0 - W S, where

    W = K - N B K        D0 = V - N B V        (K of W: those that see the incoming state)

so that two products a chunk are left to the serial pass.
"""

from typing import no_type_check

import triton
import triton.language as tl

from pallas_kernels.delta_rule.triton_tiles import (
    dot,
    load_beta,
    load_tokens,
    lower,
    remainder,
    rows_where,
    segments_of,
    split_dot,
    tile,
    unit_lower_inverse,
)


@triton.jit
@no_type_check
def prepare_kernel(
    q, k, v, beta, segments, length,
    w, d0, scores, correction, lost,
    H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, C: tl.constexpr,
    BK: tl.constexpr, BV: tl.constexpr,
    DTYPE: tl.constexpr, PRECISION: tl.constexpr, INVERSE: tl.constexpr, SPLIT: tl.constexpr,
    REMAINDER: tl.constexpr, SEGMENTS: tl.constexpr,
):  # fmt: skip
    """W [B H, N, C, K], D0 [B H, N, C, V], P and N [B H, N, C, C] (eqs. 19, 21). Grid (B H, N).

    With REMAINDER also what rounding N lost.
    """
    bh, n = tl.program_id(0), tl.program_id(1)
    row, head = bh // H, bh % H
    start = n * C
    index = bh * tl.num_programs(1) + n
    ids = tl.zeros((C,), tl.int32)
    if SEGMENTS:
        ids, incoming, _ = segments_of(segments, row, start, length, C)
    b = load_beta(beta, row, head, start, length, H, C)

    gram = tl.zeros((C, C), tl.float32)
    reads = tl.zeros((C, C), tl.float32)
    for column in range(0, K, BK):
        k_block = load_tokens(k, row, head, start, length, column, H, C, K, BK)
        q_block = load_tokens(q, row, head, start, length, column, H, C, K, BK)
        k_transposed = tl.trans(k_block)
        gram += dot(k_block, k_transposed, DTYPE, PRECISION)
        reads += dot(q_block, k_transposed, DTYPE, PRECISION)
    reads = lower(reads, ids, C, False, SEGMENTS)
    square = tile(index, 0, 0, C, C, C, C)
    tl.store(scores + square, reads.to(DTYPE))

    gram = lower(gram, ids, C, True, SEGMENTS)
    inverse = unit_lower_inverse(gram * b[None, :], C, INVERSE)
    n_tile = tl.dot(inverse, gram, input_precision=INVERSE)
    tl.store(correction + square, n_tile.to(DTYPE))
    if REMAINDER:
        tl.store(lost + square, remainder(n_tile, DTYPE).to(DTYPE))

    for column in range(0, K, BK):
        x = load_tokens(k, row, head, start, length, column, H, C, K, BK)
        if SEGMENTS:
            x = rows_where(ids == incoming, x)
        x = x.to(tl.float32)
        x -= split_dot(n_tile, b[:, None] * x, DTYPE, PRECISION, SPLIT)
        tl.store(w + tile(index, 0, column, C, C, K, BK), x.to(DTYPE))
    for column in range(0, V, BV):
        x = load_tokens(v, row, head, start, length, column, H, C, V, BV).to(tl.float32)
        x -= split_dot(n_tile, b[:, None] * x, DTYPE, PRECISION, SPLIT)
        tl.store(d0 + tile(index, 0, column, C, C, V, BV), x.to(DTYPE))
