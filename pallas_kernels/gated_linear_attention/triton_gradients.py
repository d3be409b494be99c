# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Triton kernel of the gradients of q, k and g, parallel over chunks.

With reads q', writes k' and scores P as prepare_kernel makes them, a = q dq and b = k dk, the
decays need no products of their own: P and q' depend on g only through q times its decay, k
likewise, so (token by token, channel by channel)

    dg_t = sum_{i >= t} (a_i - b_i) + sum_v S dS,

where S and its cotangent dS are those after the chunk. Inside a chunk, from unrounded numbers, this
cancels no digits that matter; over a whole sequence it would.
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
    store_tokens,
    tile,
)
from pallas_kernels.gated_linear_attention.triton_decays import (
    across_border,
    decay,
    decay_between,
    decay_of_head,
    diagonal,
    finite,
    from_start,
    to_border,
    to_end,
)


@triton.jit
@no_type_check
def gradients_kernel(
    q, k, v, g, segments, crosses, do, states, dstates, length, scale,
    dq, dk, dg,
    H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, C: tl.constexpr,
    BK: tl.constexpr, BV: tl.constexpr, LEVELS: tl.constexpr, DECAY: tl.constexpr,
    DTYPE: tl.constexpr, PRECISION: tl.constexpr, SINGLE: tl.constexpr,
    STATE_DTYPE: tl.constexpr, STATE_PRECISION: tl.constexpr, SEGMENTS: tl.constexpr,
):  # fmt: skip
    """BK columns of dq, dk and dg, which with one decay a head is a part [B, T, H, K / BK].

    Grid (B H K / BK, N).
    """
    bh, first = tl.program_id(0) // (K // BK), tl.program_id(0) % (K // BK) * BK
    n = tl.program_id(1)
    row, head = bh // H, bh % H
    start = n * C
    index = bh.to(tl.int64) * tl.num_programs(1) + n
    ids = tl.zeros((C,), tl.int32)
    if SEGMENTS:
        ids, incoming, outgoing = segments_of(segments, row, start, length, C)
    dp = tl.zeros((C, C), tl.float32)
    dq_tile = tl.zeros((C, BK), tl.float32)
    dk_tile = tl.zeros((C, BK), tl.float32)
    dcross = tl.zeros((BK,), tl.float32)
    for column in range(0, V, BV):
        do_tile = load_tokens(do, row, head, start, length, column, H, C, V, BV)
        v_tile = load_tokens(v, row, head, start, length, column, H, C, V, BV)
        state = tl.load(states + tile(index, first, column, K, BK, V, BV))
        dstate = tl.load(dstates + tile(index, first, column, K, BK, V, BV))
        dp += dot(do_tile, tl.trans(v_tile), DTYPE, PRECISION)
        dq_tile += dot(do_tile, tl.trans(state), STATE_DTYPE, STATE_PRECISION)
        dk_tile += dot(v_tile, tl.trans(dstate), STATE_DTYPE, STATE_PRECISION)
        if DECAY != "none":
            dcross += tl.sum(state.to(tl.float32) * dstate.to(tl.float32), axis=1)
    dp = scale * lower(dp, ids, C, False, SEGMENTS)
    dq_tile *= scale
    if SEGMENTS:
        dq_tile, dk_tile = (
            rows_where(ids == incoming, dq_tile),
            rows_where(ids == outgoing, dk_tile),
        )
    q_tile = load_tokens(q, row, head, start, length, first, H, C, K, BK)
    k_tile = load_tokens(k, row, head, start, length, first, H, C, K, BK)
    q_wide, k_wide = q_tile.to(tl.float32), k_tile.to(tl.float32)
    if DECAY == "head":
        g_head = finite(load_scalars(g, row, head, start, length, H, C))
        dq_tile *= decay_of_head(from_start(C), g_head)[:, None]
        dk_tile *= decay_of_head(to_end(C), g_head)[:, None]
        dp *= decay_between(g_head, C, SINGLE)
    if DECAY == "channel":
        g_tile = finite(load_tokens(g, row, head, start, length, first, H, C, K, BK))
        dq_tile *= decay(from_start(C), g_tile, SINGLE)
        dk_tile *= decay(to_end(C), g_tile, SINGLE)
    if DECAY != "none":
        dcross *= tl.load(crosses + index * K + first + tl.arange(0, BK))
        dcross += tl.sum(k_wide * dk_tile, axis=0)
    if DECAY == "channel":
        ones = diagonal(dp, C)[:, None]
        dq_tile += ones * k_wide
        dk_tile += ones * q_wide
        for level in range(LEVELS):
            between = decay(to_border(level, C), g_tile, SINGLE)
            part = across_border(dp, level, C)
            dq_tile += between * dot(part, k_wide * between, DTYPE, PRECISION)
            dk_tile += between * dot(tl.trans(part), q_wide * between, DTYPE, PRECISION)
    else:
        dq_tile += dot(dp, k_tile, DTYPE, PRECISION)
        dk_tile += dot(tl.trans(dp), q_tile, DTYPE, PRECISION)
    store_tokens(dq, dq_tile, row, head, start, length, first, H, C, K, BK)
    store_tokens(dk, dk_tile, row, head, start, length, first, H, C, K, BK)
    difference = q_wide * dq_tile - k_wide * dk_tile
    if DECAY == "channel":
        dg_tile = tl.cumsum(difference, axis=0, reverse=True) + dcross[None, :]
        store_tokens(dg, dg_tile, row, head, start, length, first, H, C, K, BK)
    if DECAY == "head":
        dg_head = tl.cumsum(tl.sum(difference, axis=1), axis=0, reverse=True)
        dg_head += tl.sum(dcross, axis=0)
        t = start + tl.arange(0, C)
        place = ((row.to(tl.int64) * length + t) * H + head) * (K // BK) + first // BK
        tl.store(dg + place, dg_head, mask=t < length)
