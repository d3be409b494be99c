# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Triton kernels of the states: from chunk to chunk, either way, and what is read of them.

Forward x writes and y are values, states are before every chunk; in reverse x reads, y are
cotangents of outputs, and states are cotangents after every chunk (README.md, eqs. 3 and 4).
"""

from typing import no_type_check

import triton
import triton.language as tl

from pallas_kernels._common.triton_tiles import dot, load_tokens, store_tokens, tile


@triton.jit
@no_type_check
def pass_kernel(
    x, y, crosses, initial_state, length,
    states, final_state,
    H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, C: tl.constexpr, BV: tl.constexpr,
    DTYPE: tl.constexpr, PRECISION: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """S' = diag(crosses) S + X^T Y, keeping S [B H, N, K, V]. Grid (B H V / BV)."""
    bh, column = tl.program_id(0) // (V // BV), tl.program_id(0) % (V // BV) * BV
    row, head = bh // H, bh % H
    chunks = tl.cdiv(length, C)
    whole = tile(bh, 0, column, K, K, V, BV)
    state = tl.load(initial_state + whole)
    for i in range(chunks):
        n = chunks - 1 - i if REVERSE else i
        index = bh.to(tl.int64) * chunks + n
        x_tile = load_tokens(x, row, head, n * C, length, 0, H, C, K, K)
        y_tile = load_tokens(y, row, head, n * C, length, column, H, C, V, BV)
        cross = tl.load(crosses + index * K + tl.arange(0, K))
        kept = states + tile(index, 0, column, K, K, V, BV)
        tl.store(kept, state.to(states.dtype.element_ty))
        state = cross[:, None] * state + dot(tl.trans(x_tile), y_tile, DTYPE, PRECISION)
    tl.store(final_state + whole, state)


@triton.jit
@no_type_check
def read_kernel(
    x, y, scores, states, length,
    output,
    H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, C: tl.constexpr,
    BK: tl.constexpr, BV: tl.constexpr, DTYPE: tl.constexpr, PRECISION: tl.constexpr,
    STATE_DTYPE: tl.constexpr, STATE_PRECISION: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """X S + P Y; with REVERSE X S + P^T Y. Grid (B H V / BV, N)."""
    bh, column = tl.program_id(0) // (V // BV), tl.program_id(0) % (V // BV) * BV
    n = tl.program_id(1)
    row, head = bh // H, bh % H
    start = n * C
    index = bh.to(tl.int64) * tl.num_programs(1) + n
    p = tl.load(scores + tile(index, 0, 0, C, C, C, C))
    if REVERSE:
        p = tl.trans(p)
    y_tile = load_tokens(y, row, head, start, length, column, H, C, V, BV)
    out = dot(p, y_tile, DTYPE, PRECISION)
    for first in range(0, K, BK):
        x_tile = load_tokens(x, row, head, start, length, first, H, C, K, BK)
        state = tl.load(states + tile(index, first, column, K, BK, V, BV))
        out += dot(x_tile, state, STATE_DTYPE, STATE_PRECISION)
    store_tokens(output, out, row, head, start, length, column, H, C, V, BV)
