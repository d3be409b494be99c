# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Triton kernel of the triangular system: N = (I + L B)^-1 L of every chunk (eq. 19).

One warp a chunk, in 16 x 16 blocks: the diagonal ones of I + L B are inverted by substitution, then

    N_ij = (I + L B)_ii^-1 (L_ij - sum over j <= m < i of (L B)_im N_mj),

block forward substitution. Float32 throughout, no powers of L (wy.py says why); many chunks a
multiprocessor hide what one has to wait for.
"""

from typing import no_type_check

import triton
import triton.language as tl

from pallas_kernels._common.triton_tiles import (
    dot,
    load_scalars,
    load_tokens,
    remainder,
    segment_ids_of,
    tile,
)


@triton.jit
@no_type_check
def _within(x, ids_i, ids_j, DIAGONAL: tl.constexpr, SEGMENTS: tl.constexpr):
    """A block of L: strictly lower on the diagonal, within segments."""
    if DIAGONAL:
        x = tl.where(tl.arange(0, 16)[:, None] > tl.arange(0, 16)[None, :], x, 0.0)
    if SEGMENTS:
        x = tl.where(ids_i[:, None] == ids_j[None, :], x, 0.0)
    return x


@triton.jit
@no_type_check
def _eliminate(x, a, c):
    """Column c of a strictly lower `a` taken out of the rows below, in x = (I + a)^-1 so far."""
    i, j = tl.arange(0, 16)[:, None], tl.arange(0, 16)[None, :]
    row = tl.sum(tl.where(i == c, x, 0.0), axis=0)
    column = tl.sum(tl.where(j == c, a, 0.0), axis=1)
    return x - column[:, None] * row[None, :]


@triton.jit
@no_type_check
def _product(a, b, PRECISION: tl.constexpr):
    return tl.dot(a, b, input_precision=PRECISION)


@triton.jit
@no_type_check
def _store(correction, lost, index, i, j, x, C: tl.constexpr, DTYPE: tl.constexpr,
           REMAINDER: tl.constexpr):  # fmt: skip
    place = tile(index, 16 * i, 16 * j, C, 16, C, 16)
    tl.store(correction + place, x.to(DTYPE))
    if REMAINDER:
        tl.store(lost + place, remainder(x, DTYPE).to(DTYPE))


@triton.jit
@no_type_check
def correction_kernel(
    k, beta, segments, length,
    correction, lost,
    H: tl.constexpr, K: tl.constexpr, C: tl.constexpr, BK: tl.constexpr,
    DTYPE: tl.constexpr, PRECISION: tl.constexpr, INVERSE: tl.constexpr,
    REMAINDER: tl.constexpr, SEGMENTS: tl.constexpr,
):  # fmt: skip
    """N [B H, N, C, C] and, with REMAINDER, what rounding it lost; C is 32 or 64. Grid (B H, N)."""
    bh, n = tl.program_id(0), tl.program_id(1)
    row, head = bh // H, bh % H
    start = n * C
    index = bh * tl.num_programs(1) + n
    zeros = tl.zeros((16, 16), tl.float32)
    l00, l10, l11 = zeros, zeros, zeros
    l20, l21, l22, l30, l31, l32, l33 = zeros, zeros, zeros, zeros, zeros, zeros, zeros
    for column in range(0, K, BK):
        k0 = load_tokens(k, row, head, start, length, column, H, 16, K, BK)
        k1 = load_tokens(k, row, head, start + 16, length, column, H, 16, K, BK)
        t0, t1 = tl.trans(k0), tl.trans(k1)
        l00 += dot(k0, t0, DTYPE, PRECISION)
        l10 += dot(k1, t0, DTYPE, PRECISION)
        l11 += dot(k1, t1, DTYPE, PRECISION)
        if C == 64:
            k2 = load_tokens(k, row, head, start + 32, length, column, H, 16, K, BK)
            k3 = load_tokens(k, row, head, start + 48, length, column, H, 16, K, BK)
            t2, t3 = tl.trans(k2), tl.trans(k3)
            l20 += dot(k2, t0, DTYPE, PRECISION)
            l21 += dot(k2, t1, DTYPE, PRECISION)
            l22 += dot(k2, t2, DTYPE, PRECISION)
            l30 += dot(k3, t0, DTYPE, PRECISION)
            l31 += dot(k3, t1, DTYPE, PRECISION)
            l32 += dot(k3, t2, DTYPE, PRECISION)
            l33 += dot(k3, t3, DTYPE, PRECISION)
    b0 = load_scalars(beta, row, head, start, length, H, 16)[None, :]
    b1 = load_scalars(beta, row, head, start + 16, length, H, 16)[None, :]
    b2 = load_scalars(beta, row, head, start + 32, length, H, 16)[None, :]
    b3 = load_scalars(beta, row, head, start + 48, length, H, 16)[None, :]
    s0 = segment_ids_of(segments, row, start, length, 16, SEGMENTS)
    s1 = segment_ids_of(segments, row, start + 16, length, 16, SEGMENTS)
    s2 = segment_ids_of(segments, row, start + 32, length, 16, SEGMENTS)
    s3 = segment_ids_of(segments, row, start + 48, length, 16, SEGMENTS)
    l00 = _within(l00, s0, s0, True, SEGMENTS)
    l10 = _within(l10, s1, s0, False, SEGMENTS)
    l11 = _within(l11, s1, s1, True, SEGMENTS)
    l20 = _within(l20, s2, s0, False, SEGMENTS)
    l21 = _within(l21, s2, s1, False, SEGMENTS)
    l22 = _within(l22, s2, s2, True, SEGMENTS)
    l30 = _within(l30, s3, s0, False, SEGMENTS)
    l31 = _within(l31, s3, s1, False, SEGMENTS)
    l32 = _within(l32, s3, s2, False, SEGMENTS)
    l33 = _within(l33, s3, s3, True, SEGMENTS)

    identity = tl.where(tl.arange(0, 16)[:, None] == tl.arange(0, 16)[None, :], 1.0, 0.0)
    x0, x1, x2, x3 = identity, identity, identity, identity
    for c in range(15):
        x0 = _eliminate(x0, l00 * b0, c)
        x1 = _eliminate(x1, l11 * b1, c)
        if C == 64:
            x2 = _eliminate(x2, l22 * b2, c)
            x3 = _eliminate(x3, l33 * b3, c)

    n00 = _product(x0, l00, INVERSE)
    n11 = _product(x1, l11, INVERSE)
    n10 = _product(x1, l10 - _product(l10 * b0, n00, INVERSE), INVERSE)
    _store(correction, lost, index, 0, 0, n00, C, DTYPE, REMAINDER)
    _store(correction, lost, index, 0, 1, zeros, C, DTYPE, REMAINDER)
    _store(correction, lost, index, 1, 0, n10, C, DTYPE, REMAINDER)
    _store(correction, lost, index, 1, 1, n11, C, DTYPE, REMAINDER)
    if C == 64:
        n22 = _product(x2, l22, INVERSE)
        n33 = _product(x3, l33, INVERSE)
        n21 = _product(x2, l21 - _product(l21 * b1, n11, INVERSE), INVERSE)
        n32 = _product(x3, l32 - _product(l32 * b2, n22, INVERSE), INVERSE)
        r20 = l20 - _product(l20 * b0, n00, INVERSE) - _product(l21 * b1, n10, INVERSE)
        n20 = _product(x2, r20, INVERSE)
        r31 = l31 - _product(l31 * b1, n11, INVERSE) - _product(l32 * b2, n21, INVERSE)
        n31 = _product(x3, r31, INVERSE)
        r30 = l30 - _product(l30 * b0, n00, INVERSE) - _product(l31 * b1, n10, INVERSE)
        n30 = _product(x3, r30 - _product(l32 * b2, n20, INVERSE), INVERSE)
        for i in tl.static_range(2):
            for j in tl.static_range(2, 4):
                _store(correction, lost, index, i, j, zeros, C, DTYPE, REMAINDER)
        _store(correction, lost, index, 2, 3, zeros, C, DTYPE, REMAINDER)
        _store(correction, lost, index, 2, 0, n20, C, DTYPE, REMAINDER)
        _store(correction, lost, index, 2, 1, n21, C, DTYPE, REMAINDER)
        _store(correction, lost, index, 2, 2, n22, C, DTYPE, REMAINDER)
        _store(correction, lost, index, 3, 0, n30, C, DTYPE, REMAINDER)
        _store(correction, lost, index, 3, 1, n31, C, DTYPE, REMAINDER)
        _store(correction, lost, index, 3, 2, n32, C, DTYPE, REMAINDER)
        _store(correction, lost, index, 3, 3, n33, C, DTYPE, REMAINDER)
