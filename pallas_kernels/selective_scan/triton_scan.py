# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Triton kernels of the selective scan, forward and backward.

A program takes BD channels of a row through the sequence, its state [N, BD] in the registers of one
warp, BT tokens at a time. Forward, a token and channel cost 2 + 4 + 2 bytes of x, dt and y in 16
bits (b and c come from the cache), N exponentials, which are the bound (a GPU makes one for four
to eight multiply-adds), and 4 N other operations.

Backward the states are needed once more, in reverse. Kept is one every BT tokens, 4 N / BT bytes a
token and channel, by the forward kernel without outputs; those between are made again and stay in
registers: in all 3 N exponentials, about 20 N other operations and 20 + 8 N / BT bytes. What sums
over channels, db and dc, leaves every program as a part of its own, 8 N / BD bytes, and is added up
afterwards: no atomic operations, so the same bits every time.

In names of constants: N numbers a channel, D channels. `no_type_check` as in _common/triton_tiles.
"""

from typing import no_type_check

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
LOG_2 = tl.constexpr(0.6931471805599453)


@triton.jit
@no_type_check
def program(a, rows_of_a, N: tl.constexpr, D: tl.constexpr, BD: tl.constexpr):
    """A program's row, channels, numbers, which channels there are, places in [N, D], A log2(e)."""
    width: tl.constexpr = tl.cdiv(D, BD)
    row = (tl.program_id(0) // width).to(tl.int64)
    d = tl.program_id(0) % width * BD + tl.arange(0, BD)
    n = tl.arange(0, N)
    place = n[:, None] * D + d[None, :]
    inside = d < D
    a_tile = tl.load(a + row // rows_of_a * (N * D) + place, mask=inside[None, :], other=0.0)
    return row, d, n, inside, place, a_tile * LOG2_E


@triton.jit
@no_type_check
def load_row(array, token, column, mask, WIDTH: tl.constexpr):
    """Columns of row `token` of [tokens, WIDTH] in float32, zeros without `mask`."""
    return tl.load(array + token * WIDTH + column, mask=mask, other=0.0).to(tl.float32)


@triton.jit
@no_type_check
def decays(dt, a, starts, token, there, SEGMENTS: tl.constexpr):
    """exp(dt A) [N, BD] of a token, 0 where a segment starts; `a` is A log2(e)."""
    decay = tl.exp2(dt[None, :] * a)
    if SEGMENTS:
        starts_here = tl.load(starts + token, mask=there, other=0)
        decay = tl.where(starts_here != 0, 0.0, decay)
    return decay


@triton.jit
@no_type_check
def forward_kernel(
    x, dt, a, b, c, starts, initial_state, length, rows_of_a,
    y, states, final_state,
    N: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BT: tl.constexpr, SEGMENTS: tl.constexpr,
    OUTPUT: tl.constexpr, SAVE: tl.constexpr,
):  # fmt: skip
    """S_t = exp(dt_t A) S_{t-1} + b_t (dt_t x_t)^T, y_t = S_t^T c_t. Grid (B D / BD).

    With OUTPUT y; with SAVE the state before every BT tokens, [B, T / BT, N, D].
    """
    row, d, n, inside, place, a_tile = program(a, rows_of_a, N, D, BD)
    state = tl.load(initial_state + row * (N * D) + place, mask=inside[None, :], other=0.0)
    blocks = tl.cdiv(length, BT)
    for block in range(blocks):
        first = block * BT
        if SAVE:
            kept = states + (row * blocks + block) * (N * D)
            tl.store(kept + place, state, mask=inside[None, :])
        rows = ()
        for i in tl.static_range(BT):
            there, token = first + i < length, row * length + first + i
            x_t = load_row(x, token, d, inside & there, D)
            dt_t = load_row(dt, token, d, inside & there, D)
            b_t = load_row(b, token, n, there, N)
            c_t = load_row(c, token, n, there, N)
            rows = rows + ((x_t, dt_t, b_t, c_t),)
        for i in tl.static_range(BT):
            there, token = first + i < length, row * length + first + i
            x_t, dt_t, b_t, c_t = rows[i]
            decay = decays(dt_t, a_tile, starts, token, there, SEGMENTS)
            state = decay * state + b_t[:, None] * (dt_t * x_t)[None, :]
            if OUTPUT:
                out = tl.sum(c_t[:, None] * state, axis=0).to(y.dtype.element_ty)
                tl.store(y + token * D + d, out, mask=inside & there)
    tl.store(final_state + row * (N * D) + place, state, mask=inside[None, :])


@triton.jit
@no_type_check
def cotangent_kernel(
    dt, a, c, starts, dy, length, rows_of_a,
    dinitial_state,
    N: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BT: tl.constexpr, SEGMENTS: tl.constexpr,
):  # fmt: skip
    """The cotangent of the initial state where that of the final one is 0. Grid (B D / BD)."""
    row, d, n, inside, place, a_tile = program(a, rows_of_a, N, D, BD)
    coming = tl.zeros((N, BD), tl.float32)
    blocks = tl.cdiv(length, BT)
    for i in range(blocks):
        first = (blocks - 1 - i) * BT
        rows = ()
        for j in tl.static_range(BT):
            there, token = first + j < length, row * length + first + j
            dt_t = load_row(dt, token, d, inside & there, D)
            dy_t = load_row(dy, token, d, inside & there, D)
            rows = rows + ((dt_t, dy_t, load_row(c, token, n, there, N)),)
        for j in tl.static_range(BT - 1, -1, -1):
            there, token = first + j < length, row * length + first + j
            dt_t, dy_t, c_t = rows[j]
            dstate = coming + c_t[:, None] * dy_t[None, :]
            coming = decays(dt_t, a_tile, starts, token, there, SEGMENTS) * dstate
    tl.store(dinitial_state + row * (N * D) + place, coming, mask=inside[None, :])


@triton.jit
@no_type_check
def backward_kernel(
    x, dt, a, b, c, starts, states, dy, dfinal_state, length, rows_of_a,
    dx, ddt, da, db, dc, dinitial_state,
    N: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BT: tl.constexpr, SEGMENTS: tl.constexpr,
):  # fmt: skip
    """With G_t = exp(dt_t A) dS_t, which comes to S_{t-1}: dS_t = G_{t+1} + c_t dy_t^T,

        dx_t = dt_t dS_t^T b_t,              db_t = dS_t (dt_t x_t),    dc_t = S_t dy_t,
        ddt_t = x_t dS_t^T b_t + sum_n A G_t S_{t-1},          dA = sum_t dt_t G_t S_{t-1}.

    Grid (B D / BD). `db` and `dc` are parts [B, D / BD, T, N], `da` is of every row [B, N, D].
    """
    row, d, n, inside, place, a_tile = program(a, rows_of_a, N, D, BD)
    coming = tl.load(dfinal_state + row * (N * D) + place, mask=inside[None, :], other=0.0)
    da_tile = tl.zeros((N, BD), tl.float32)
    part = tl.program_id(0).to(tl.int64) * length
    blocks = tl.cdiv(length, BT)
    for i in range(blocks):
        block = blocks - 1 - i
        first = block * BT
        kept = states + (row * blocks + block) * (N * D)
        state = tl.load(kept + place, mask=inside[None, :], other=0.0)
        rows = ()
        for j in tl.static_range(BT):
            there, token = first + j < length, row * length + first + j
            x_t = load_row(x, token, d, inside & there, D)
            dt_t = load_row(dt, token, d, inside & there, D)
            dy_t = load_row(dy, token, d, inside & there, D)
            rows = rows + ((x_t, dt_t, dy_t, load_row(b, token, n, there, N)),)
        before = ()
        for j in tl.static_range(BT):
            there, token = first + j < length, row * length + first + j
            x_t, dt_t, dy_t, b_t = rows[j]
            before = before + (state,)
            decay = decays(dt_t, a_tile, starts, token, there, SEGMENTS)
            state = decay * state + b_t[:, None] * (dt_t * x_t)[None, :]
            dc_t = tl.sum(state * dy_t[None, :], axis=1)
            tl.store(dc + (part + first + j) * N + n, dc_t, mask=there)
        for j in tl.static_range(BT - 1, -1, -1):
            there, token = first + j < length, row * length + first + j
            # Read again, from the cache: registers are what there is least of.
            x_t = load_row(x, token, d, inside & there, D)
            dt_t = load_row(dt, token, d, inside & there, D)
            dy_t = load_row(dy, token, d, inside & there, D)
            b_t = load_row(b, token, n, there, N)
            c_t = load_row(c, token, n, there, N)
            dstate = coming + c_t[:, None] * dy_t[None, :]
            db_t = tl.sum(dstate * (dt_t * x_t)[None, :], axis=1)
            written = tl.sum(dstate * b_t[:, None], axis=0)
            coming = decays(dt_t, a_tile, starts, token, there, SEGMENTS) * dstate
            dlog = coming * before[j]
            da_tile += dt_t[None, :] * dlog
            ddt_t = x_t * written + LOG_2 * tl.sum(a_tile * dlog, axis=0)
            dx_t = (dt_t * written).to(dx.dtype.element_ty)
            tl.store(dx + token * D + d, dx_t, mask=inside & there)
            tl.store(ddt + token * D + d, ddt_t, mask=inside & there)
            tl.store(db + (part + first + j) * N + n, db_t, mask=there)
    tl.store(dinitial_state + row * (N * D) + place, coming, mask=inside[None, :])
    tl.store(da + row * (N * D) + place, da_tile, mask=inside[None, :])
