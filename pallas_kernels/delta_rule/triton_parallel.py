# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Triton kernels that are parallel over chunks once the states are there: outputs, gradients."""

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
    tile,
)


@triton.jit
@no_type_check
def output_kernel(
    q, beta, segments, scores, d, states, length, scale,
    output,
    H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, C: tl.constexpr,
    BK: tl.constexpr, BV: tl.constexpr,
    DTYPE: tl.constexpr, PRECISION: tl.constexpr, SEGMENTS: tl.constexpr,
):  # fmt: skip
    """O = s (Q S + P B D) (eq. 21). Grid (B H V / BV, N)."""
    bh, column = tl.program_id(0) // (V // BV), tl.program_id(0) % (V // BV) * BV
    n = tl.program_id(1)
    row, head = bh // H, bh % H
    start = n * C
    index = bh * tl.num_programs(1) + n
    if SEGMENTS:
        ids, incoming, _ = segments_of(segments, row, start, length, C)
    out = tl.zeros((C, BV), tl.float32)
    for first in range(0, K, BK):
        q_block = load_tokens(q, row, head, start, length, first, H, C, K, BK)
        if SEGMENTS:
            q_block = rows_where(ids == incoming, q_block)
        state = tl.load(states + tile(index, first, column, K, BK, V, BV))
        out += dot(q_block, state, DTYPE, PRECISION)
    b = load_scalars(beta, row, head, start, length, H, C)
    u = b[:, None] * tl.load(d + tile(index, 0, column, C, C, V, BV)).to(tl.float32)
    out += dot(tl.load(scores + tile(index, 0, 0, C, C, C, C)), u, DTYPE, PRECISION)
    store_tokens(output, scale * out, row, head, start, length, column, H, C, V, BV)


@triton.jit
@no_type_check
def gradients_kernel(
    q, k, beta, segments, do, d, dx, states, dstates, length, scale,
    dq, dk, dv, dbeta,
    H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, C: tl.constexpr,
    BK: tl.constexpr, BV: tl.constexpr,
    DTYPE: tl.constexpr, PRECISION: tl.constexpr, SEGMENTS: tl.constexpr,
):  # fmt: skip
    """Eqs. 23 to 25 for BK columns of dQ and dK; the first block also writes dV and dbeta.

    Grid (B H K / BK, N).
    """
    bh, first = tl.program_id(0) // (K // BK), tl.program_id(0) % (K // BK) * BK
    n = tl.program_id(1)
    row, head = bh // H, bh % H
    start = n * C
    index = bh * tl.num_programs(1) + n
    ids = tl.zeros((C,), tl.int32)
    if SEGMENTS:
        ids, incoming, outgoing = segments_of(segments, row, start, length, C)
    b = load_scalars(beta, row, head, start, length, H, C)
    # Two passes over the values, so that not all four sums take registers at once.
    dscores = tl.zeros((C, C), tl.float32)
    dgram = tl.zeros((C, C), tl.float32)
    db = tl.zeros((C,), tl.float32)
    for column in range(0, V, BV):
        do_tile = load_tokens(do, row, head, start, length, column, H, C, V, BV)
        dx_tile = tl.load(dx + tile(index, 0, column, C, C, V, BV)).to(tl.float32)
        errors = tl.load(d + tile(index, 0, column, C, C, V, BV)).to(tl.float32)
        db += tl.sum(dx_tile * errors, axis=1)
        dv_tile = (b[:, None] * dx_tile).to(DTYPE)
        if first == 0:
            store_tokens(dv, dv_tile, row, head, start, length, column, H, C, V, BV)
        u_transposed = tl.trans((b[:, None] * errors).to(DTYPE))
        dscores += dot(do_tile, u_transposed, DTYPE, PRECISION)
        dgram -= dot(dv_tile, u_transposed, DTYPE, PRECISION)
    if first == 0:
        t = start + tl.arange(0, C)
        place = (row.to(tl.int64) * length + t) * H + head
        tl.store(dbeta + place, db.to(dbeta.dtype.element_ty), mask=t < length)

    dscores = lower(dscores, ids, C, False, SEGMENTS).to(DTYPE)
    dgram = lower(dgram, ids, C, True, SEGMENTS)
    dgram += tl.trans(dgram)
    k_block = load_tokens(k, row, head, start, length, first, H, C, K, BK)
    q_block = load_tokens(q, row, head, start, length, first, H, C, K, BK)
    dq_block = dot(dscores, k_block, DTYPE, PRECISION)
    dk_block = dot(dgram, k_block, DTYPE, PRECISION)
    dk_block += scale * dot(tl.trans(dscores), q_block, DTYPE, PRECISION)
    for column in range(0, V, BV):
        do_tile = load_tokens(do, row, head, start, length, column, H, C, V, BV)
        dx_tile = tl.load(dx + tile(index, 0, column, C, C, V, BV)).to(tl.float32)
        errors = tl.load(d + tile(index, 0, column, C, C, V, BV)).to(tl.float32)
        dv_tile, u = (b[:, None] * dx_tile).to(DTYPE), (b[:, None] * errors).to(DTYPE)
        if SEGMENTS:
            do_tile = rows_where(ids == incoming, do_tile)
            dv_tile = rows_where(ids == incoming, dv_tile)
            u = rows_where(ids == outgoing, u)
        block = tile(index, first, column, K, BK, V, BV)
        state = tl.trans(tl.load(states + block))
        dstate = tl.trans(tl.load(dstates + block))
        dq_block += dot(do_tile, state, DTYPE, PRECISION)
        dk_block -= dot(dv_tile, state, DTYPE, PRECISION)
        dk_block += dot(u, dstate, DTYPE, PRECISION)
    store_tokens(dq, scale * dq_block, row, head, start, length, first, H, C, K, BK)
    store_tokens(dk, dk_block, row, head, start, length, first, H, C, K, BK)
