# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Triton kernels of one token: products of a row with a matrix, and a DeltaNet head's step.

In names of constants: N rows and D columns of a matrix, BN and BD of a block of it, K and V head
sizes, H heads, W taps. `no_type_check`: what wraps functions to check their annotations in tests
would hide them from Triton's compiler.
"""

from typing import no_type_check

import triton
import triton.language as tl

L2_EPS = tl.constexpr(1e-6)


@triton.jit
@no_type_check
def _load(pointers, mask, WHOLE: tl.constexpr):
    """float32; zeros outside the mask, which there is no need to look at where all is inside."""
    x = tl.load(pointers) if WHOLE else tl.load(pointers, mask=mask, other=0.0)
    return x.to(tl.float32)


@triton.jit
@no_type_check
def row_product_kernel(
    x, scale, weight, residual, eps,
    y,
    N: tl.constexpr, D: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr,
    NORM: tl.constexpr, GATED: tl.constexpr, RESIDUAL: tl.constexpr,
):  # fmt: skip
    """Rows of y = weight x, sums in float32. Grid (N / BN).

    NORM: x is RMS-normalised first, with `scale`. The factor of the row is the same for all, so it
    comes last, and the weights are on their way while it is made. GATED: weight is two matrices
    [2, N, D], y = silu(first x) * (second x). RESIDUAL: is added to y.

    x and scale are loaded as the weights are, once for each of their rows: so every warp has whole
    rows, and nothing passes from one to another until the last sum.
    """
    WHOLE: tl.constexpr = N % BN == 0 and D % BD == 0
    rows = tl.program_id(0) * BN + tl.arange(0, BN)
    inside = rows < N
    sums = tl.zeros([BN, BD], tl.float32)
    more = tl.zeros([BN, BD], tl.float32)
    squares = tl.zeros([BN, BD], tl.float32)
    for start in tl.static_range(0, D, BD):
        columns = tl.broadcast_to((start + tl.arange(0, BD))[None, :], [BN, BD])
        mask = inside[:, None] & (columns < D)
        places = rows.to(tl.int64)[:, None] * D + columns
        tile = _load(weight + places, mask, WHOLE)
        if GATED:
            second = _load(weight + N * D + places, mask, WHOLE)
        part = _load(x + columns, mask, WHOLE)
        if NORM:
            squares += part * part
            part *= _load(scale + columns, mask, WHOLE)
        sums += tile * part
        if GATED:
            more += second * part
    out = tl.sum(sums, axis=1)
    if NORM:
        factor = tl.rsqrt(tl.sum(squares, axis=1) / D + eps)
        out *= factor
    if GATED:
        other = tl.sum(more, axis=1)
        if NORM:
            other *= factor
        out = out * tl.sigmoid(out) * other
    if RESIDUAL:
        out += tl.load(residual + rows, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + rows, out.to(y.dtype.element_ty), mask=inside)


@triton.jit
@no_type_check
def _convolved(new, tail, taps, row, channels, CHANNELS: tl.constexpr, W: tl.constexpr):
    """silu of the short convolution's output for the newest input, [channels] float32."""
    out = new * tl.load(taps + channels).to(tl.float32)
    first = row.to(tl.int64) * (W - 1) * CHANNELS + channels
    for back in tl.static_range(1, W):
        old = tl.load(tail + first + (W - 1 - back) * CHANNELS).to(tl.float32)
        out += old * tl.load(taps + back * CHANNELS + channels).to(tl.float32)
    return out * tl.sigmoid(out)


@triton.jit
@no_type_check
def _shifted(new, tail, new_tail, row, channels, CHANNELS: tl.constexpr, W: tl.constexpr):
    """Writes the tail with the newest input behind and the oldest gone."""
    first = row.to(tl.int64) * (W - 1) * CHANNELS + channels
    for place in tl.static_range(W - 2):
        kept = tl.load(tail + first + (place + 1) * CHANNELS)
        tl.store(new_tail + first + place * CHANNELS, kept)
    tl.store(new_tail + first + (W - 2) * CHANNELS, new.to(new_tail.dtype.element_ty))


@triton.jit
@no_type_check
def delta_net_kernel(
    projected, tail_q, tail_k, tail_v, taps_q, taps_k, taps_v, norm_scale, state,
    scale, beta_scale, norm_eps,
    output, new_tail_q, new_tail_k, new_tail_v, new_state,
    H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, W: tl.constexpr, WIDTH: tl.constexpr,
    Q_AT: tl.constexpr, K_AT: tl.constexpr, V_AT: tl.constexpr, BETA_AT: tl.constexpr,
):  # fmt: skip
    """All that a DeltaNet layer does between its projections. Grid (B H): a row's head."""
    row, head = tl.program_id(0) // H, tl.program_id(0) % H
    keys, values = tl.arange(0, K), tl.arange(0, V)
    places = tl.program_id(0).to(tl.int64) * K * V + keys[:, None] * V + values[None, :]
    memory = tl.load(state + places)
    inputs = projected + row.to(tl.int64) * WIDTH
    q_new = tl.load(inputs + Q_AT + head * K + keys).to(tl.float32)
    k_new = tl.load(inputs + K_AT + head * K + keys).to(tl.float32)
    v_new = tl.load(inputs + V_AT + head * V + values).to(tl.float32)
    beta = beta_scale * tl.sigmoid(tl.load(inputs + BETA_AT + head).to(tl.float32))
    q = _convolved(q_new, tail_q, taps_q, row, head * K + keys, H * K, W)
    k = _convolved(k_new, tail_k, taps_k, row, head * K + keys, H * K, W)
    v = _convolved(v_new, tail_v, taps_v, row, head * V + values, H * V, W)
    q *= tl.rsqrt(tl.sum(q * q, axis=0) + L2_EPS)
    k *= tl.rsqrt(tl.sum(k * k, axis=0) + L2_EPS)
    error = v - tl.sum(k[:, None] * memory, axis=0)
    memory += k[:, None] * (beta * error)[None, :]
    tl.store(new_state + places, memory)
    out = scale * tl.sum(q[:, None] * memory, axis=0)
    out *= tl.rsqrt(tl.sum(out * out, axis=0) / V + norm_eps)
    out *= tl.load(norm_scale + values).to(tl.float32)
    tl.store(output + tl.program_id(0) * V + values, out.to(output.dtype.element_ty))
    tl.debug_barrier()  # threads share channels: all have read before one writes
    _shifted(q_new, tail_q, new_tail_q, row, head * K + keys, H * K, W)
    _shifted(k_new, tail_k, new_tail_k, row, head * K + keys, H * K, W)
    _shifted(v_new, tail_v, new_tail_v, row, head * V + values, H * V, W)
