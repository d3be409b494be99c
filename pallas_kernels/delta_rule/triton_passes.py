# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Triton kernels of the serial halves: the state from chunk to chunk, its cotangent back.

One program takes a (batch row, head, block of values) through all chunks, the state in registers.
"""

from typing import no_type_check

import triton
import triton.language as tl

from pallas_kernels._common.triton_tiles import (
    dot,
    dot_split,
    load_scalars,
    load_tokens,
    rows_where,
    segments_of,
    store_tokens,
    tile,
)


@triton.jit
@no_type_check
def forward_kernel(
    q, k, beta, segments, w, d0, scores, initial_state, length, scale,
    output, d, states, final_state,
    H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, C: tl.constexpr, BV: tl.constexpr,
    DTYPE: tl.constexpr, PRECISION: tl.constexpr, SPLIT: tl.constexpr, SEGMENTS: tl.constexpr,
    OUTPUT: tl.constexpr, SAVE: tl.constexpr,
):  # fmt: skip
    """D = D0 - W S, S' = S + K^T B D (eqs. 20, 21). Grid (B H V / BV).

    With OUTPUT also the outputs; with SAVE D [B H, N, C, V] and the state before every chunk
    [B H, N, K, V].
    """
    bh, column = tl.program_id(0) // (V // BV), tl.program_id(0) % (V // BV) * BV
    row, head = bh // H, bh % H
    chunks = tl.cdiv(length, C)
    whole = tile(bh, 0, column, K, K, V, BV)
    state = tl.load(initial_state + whole)
    # What is no operand of a product Triton does not load ahead; here that is done by hand.
    x_next = tl.load(d0 + tile(bh * chunks, 0, column, C, C, V, BV))
    b_next = load_scalars(beta, row, head, 0, length, H, C)
    for n in range(chunks):
        start = n * C
        index = bh * chunks + n
        w_tile = tl.load(w + tile(index, 0, 0, C, C, K, K))
        k_tile = load_tokens(k, row, head, start, length, 0, H, C, K, K)
        x, b = x_next.to(tl.float32), b_next
        after = tl.minimum(n + 1, chunks - 1)
        x_next = tl.load(d0 + tile(bh * chunks + after, 0, column, C, C, V, BV))
        b_next = load_scalars(beta, row, head, after * C, length, H, C)
        rounded = state.to(DTYPE)
        x -= dot_split(w_tile, state, DTYPE, PRECISION, SPLIT)
        u = (b[:, None] * x).to(DTYPE)
        if SAVE:
            tl.store(states + tile(index, 0, column, K, K, V, BV), rounded)
            tl.store(d + tile(index, 0, column, C, C, V, BV), x.to(DTYPE))
        if SEGMENTS:
            ids, incoming, outgoing = segments_of(segments, row, start, length, C)
        if OUTPUT:
            q_tile = load_tokens(q, row, head, start, length, 0, H, C, K, K)
            if SEGMENTS:
                q_tile = rows_where(ids == incoming, q_tile)
            p_tile = tl.load(scores + tile(index, 0, 0, C, C, C, C))
            # From rounded errors, as output_kernel has them: the same bits.
            written = b[:, None] * x.to(DTYPE).to(tl.float32)
            out = dot(q_tile, rounded, DTYPE, PRECISION)
            out += dot(p_tile, written, DTYPE, PRECISION)
            store_tokens(output, scale * out, row, head, start, length, column, H, C, V, BV)
        if SEGMENTS:
            u = rows_where(ids == outgoing, u)
            state = tl.where(incoming == outgoing, state, 0.0)
        state += dot(tl.trans(k_tile), u, DTYPE, PRECISION)
    tl.store(final_state + whole, state)


@triton.jit
@no_type_check
def reverse_kernel(
    q, k, beta, segments, w, scores, correction, lost, do, dfinal_state, length, scale,
    dx, dstates, dinitial_state,
    H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, C: tl.constexpr, BV: tl.constexpr,
    DTYPE: tl.constexpr, PRECISION: tl.constexpr, SPLIT: tl.constexpr, SEGMENTS: tl.constexpr,
):  # fmt: skip
    """dX = dU - N^T B dU of eq. 22, where dU = s P^T dO + K dS', dS = dS' + s Q^T dO - W^T B dU.

    Grid (B H V / BV). Keeps dX [B H, N, C, V] and the cotangent after every chunk [B H, N, K, V].
    """
    bh, column = tl.program_id(0) // (V // BV), tl.program_id(0) % (V // BV) * BV
    row, head = bh // H, bh % H
    chunks = tl.cdiv(length, C)
    whole = tile(bh, 0, column, K, K, V, BV)
    dstate = tl.load(dfinal_state + whole)
    b_next = load_scalars(beta, row, head, (chunks - 1) * C, length, H, C)
    for i in range(chunks):
        n = chunks - 1 - i
        start = n * C
        index = bh * chunks + n
        k_tile = load_tokens(k, row, head, start, length, 0, H, C, K, K)
        w_tile = tl.load(w + tile(index, 0, 0, C, C, K, K))
        q_tile = load_tokens(q, row, head, start, length, 0, H, C, K, K)
        do_tile = load_tokens(do, row, head, start, length, column, H, C, V, BV)
        p_tile = tl.load(scores + tile(index, 0, 0, C, C, C, C))
        b = b_next
        b_next = load_scalars(beta, row, head, tl.maximum(n - 1, 0) * C, length, H, C)
        tl.store(dstates + tile(index, 0, column, K, K, V, BV), dstate.to(DTYPE))
        x = dot_split(k_tile, dstate, DTYPE, PRECISION, SPLIT)
        if SEGMENTS:
            ids, incoming, outgoing = segments_of(segments, row, start, length, C)
            x = rows_where(ids == outgoing, x)
            q_tile = rows_where(ids == incoming, q_tile)
            dstate = tl.where(incoming == outgoing, dstate, 0.0)
        x += scale * dot(tl.trans(p_tile), do_tile, DTYPE, PRECISION)
        written = b[:, None] * x
        n_transposed = tl.trans(tl.load(correction + tile(index, 0, 0, C, C, C, C)))
        x -= dot_split(n_transposed, written, DTYPE, PRECISION, SPLIT)
        if SPLIT:
            n_lost = tl.trans(tl.load(lost + tile(index, 0, 0, C, C, C, C)))
            x -= dot(n_lost, written, DTYPE, PRECISION)
        tl.store(dx + tile(index, 0, column, C, C, V, BV), x.to(DTYPE))
        dstate += scale * dot(tl.trans(q_tile), do_tile, DTYPE, PRECISION)
        dstate -= dot(tl.trans(w_tile), written, DTYPE, PRECISION)
    tl.store(dinitial_state + whole, dstate)
