# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Decays inside a chunk in Triton, from their logarithms g <= 0.

Sums of logarithms between two tokens are products of a matrix of zeros and ones with g, on tensor
cores, and never differences of two cumulative sums: every exponent is <= 0 and a strong decay costs
its neighbours no digits, as in _common/decay.py.
"""

from typing import no_type_check

import triton
import triton.language as tl

from pallas_kernels._common.triton_tiles import dot, dot_split

NOTHING = tl.constexpr(-200.0)  # its exponential is 0 in float32; for -inf, which 0 cannot multiply


@triton.jit
@no_type_check
def finite(g):
    """`g` with NOTHING for what is less."""
    return tl.where(g < NOTHING, NOTHING, g)


@triton.jit
@no_type_check
def decay(mask, g, SINGLE: tl.constexpr):
    """exp(sum over m of mask[i, m] g[m, n]); with SINGLE in float32, else g in 16 digits."""
    mask = mask.to(tl.float32)
    if SINGLE:
        return tl.exp(dot(mask, g, tl.float32, "tf32x3"))
    else:
        return tl.exp(dot_split(mask, g, tl.bfloat16, "ieee", True))


@triton.jit
@no_type_check
def decay_of_head(mask, g):
    """exp(sum over m of mask[i, m] g[m]), [C]."""
    return tl.exp(tl.sum(tl.where(mask, g[None, :], 0.0), axis=1))


@triton.jit
@no_type_check
def from_start(C: tl.constexpr):
    """Mask [i, m] of the tokens up to i."""
    return tl.arange(0, C)[:, None] >= tl.arange(0, C)[None, :]


@triton.jit
@no_type_check
def to_end(C: tl.constexpr):
    """Mask [j, m] of the tokens after j."""
    return tl.arange(0, C)[:, None] < tl.arange(0, C)[None, :]


@triton.jit
@no_type_check
def to_border(level, C: tl.constexpr):
    """Mask [i, m] of the tokens between i and the border of the two halves of i's block.

    Blocks have 2^(level + 1) tokens. In the later half from the border up to i, in the earlier one
    after i up to the border.
    """
    i, m = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    border = (i >> level | 1) << level
    return ((i >= border) & (m >= border) & (m <= i)) | ((m > i) & (m < border))


@triton.jit
@no_type_check
def across_border(x, level, C: tl.constexpr):
    """[C, C] where i is in the later half of a block and j in the earlier one of the same."""
    i, j = tl.arange(0, C)[:, None] >> level, tl.arange(0, C)[None, :] >> level
    return tl.where((i == j + 1) & (j % 2 == 0), x, 0.0)


@triton.jit
@no_type_check
def diagonal(x, C: tl.constexpr):
    """[C] of [C, C]."""
    i, j = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    return tl.sum(tl.where(i == j, x, 0.0), axis=1)


@triton.jit
@no_type_check
def decay_between(g, C: tl.constexpr, SINGLE: tl.constexpr):
    """exp(g_{j+1} + ... + g_i) for i >= j, 1 elsewhere, of one decay a token, g [C]."""
    return decay(from_start(C), tl.where(tl.trans(to_end(C)), g[:, None], 0.0), SINGLE)
