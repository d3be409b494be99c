# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""What Triton kernels share: loads, stores, products, masks.

In names of constants:
C tokens of a chunk, K and V head sizes, BK and BV of a block of them, H heads. `no_type_check`:
what wraps functions to check their annotations in tests would hide them from Triton's compiler.
"""

from typing import no_type_check

import triton
import triton.language as tl


@triton.jit
@no_type_check
def load_tokens(array, row, head, start, length, column, H: tl.constexpr, C: tl.constexpr,
                WIDTH: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """[C, BLOCK] of [B, T, H, WIDTH]: tokens from `start` (of batch row `row`), zeros past T."""
    i = tl.arange(0, C)
    first = ((row.to(tl.int64) * length + start) * H + head) * WIDTH + column
    offsets = i[:, None] * (H * WIDTH) + tl.arange(0, BLOCK)[None, :]
    return tl.load(array + first + offsets, mask=(start + i < length)[:, None], other=0.0)


@triton.jit
@no_type_check
def store_tokens(array, x, row, head, start, length, column, H: tl.constexpr, C: tl.constexpr,
                 WIDTH: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """The reverse of `load_tokens`."""
    i = tl.arange(0, C)
    first = ((row.to(tl.int64) * length + start) * H + head) * WIDTH + column
    offsets = i[:, None] * (H * WIDTH) + tl.arange(0, BLOCK)[None, :]
    mask = (start + i < length)[:, None]
    tl.store(array + first + offsets, x.to(array.dtype.element_ty), mask=mask)


@triton.jit
@no_type_check
def load_scalars(array, row, head, start, length, H: tl.constexpr, C: tl.constexpr):
    """[C] float32 of [B, T, H], zeros past T."""
    t = start + tl.arange(0, C)
    first = (row.to(tl.int64) * length + t) * H + head
    return tl.load(array + first, mask=t < length, other=0.0).to(tl.float32)


@triton.jit
@no_type_check
def tile(tile_index, first_row, column, ROWS: tl.constexpr, BLOCK_ROWS: tl.constexpr,
         WIDTH: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """Offsets of a [BLOCK_ROWS, BLOCK] part of matrix `tile_index` of many [ROWS, WIDTH]."""
    first = (tile_index.to(tl.int64) * ROWS + first_row) * WIDTH + column
    return first + tl.arange(0, BLOCK_ROWS)[:, None] * WIDTH + tl.arange(0, BLOCK)[None, :]


@triton.jit
@no_type_check
def segment_ids_of(segments, row, start, length, C: tl.constexpr, SEGMENTS: tl.constexpr):
    """Segment numbers [C] of tokens from `start`; those past T are of the last one's segment."""
    if SEGMENTS:
        t = tl.minimum(start + tl.arange(0, C), length - 1)
        return tl.load(segments + row.to(tl.int64) * length + t)
    else:
        return tl.zeros((C,), tl.int32)


@triton.jit
@no_type_check
def segments_of(segments, row, start, length, C: tl.constexpr):
    """A chunk's segment numbers [C], and those of its incoming and of its outgoing state."""
    ids = segments + row.to(tl.int64) * length
    incoming = tl.load(ids + tl.maximum(start - 1, 0))
    outgoing = tl.load(ids + tl.minimum(start + C, length) - 1)
    return segment_ids_of(segments, row, start, length, C, True), incoming, outgoing


@triton.jit
@no_type_check
def rows_where(mask, x):
    """Rows of `x` where `mask`, else 0."""
    return tl.where(mask[:, None], x, 0.0).to(x.dtype)


@triton.jit
@no_type_check
def dot(a, b, DTYPE: tl.constexpr, PRECISION: tl.constexpr):
    """a b with both rounded to DTYPE; float32 sums. PRECISION is of float32 products."""
    return tl.dot(a.to(DTYPE), b.to(DTYPE), input_precision=PRECISION)


@triton.jit
@no_type_check
def remainder(a, DTYPE: tl.constexpr):
    """What rounding float32 `a` to DTYPE leaves."""
    return a - a.to(DTYPE).to(tl.float32)


@triton.jit
@no_type_check
def dot_split(a, b, DTYPE: tl.constexpr, PRECISION: tl.constexpr, SPLIT: tl.constexpr):
    """`dot`; with SPLIT of the float32 `b` as a sum of two DTYPE numbers."""
    product = dot(a, b, DTYPE, PRECISION)
    if SPLIT:
        product += dot(a, remainder(b, DTYPE), DTYPE, PRECISION)
    return product


@triton.jit
@no_type_check
def lower(x, ids, C: tl.constexpr, STRICT: tl.constexpr, SEGMENTS: tl.constexpr):
    """The (strictly) lower triangle of [C, C], within segments."""
    i, j = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    mask = (i > j) if STRICT else (i >= j)
    if SEGMENTS:
        mask &= ids[:, None] == ids[None, :]
    return tl.where(mask, x, 0.0)
