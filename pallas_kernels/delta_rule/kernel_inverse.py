# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""(I + A)^-1 of a 64 x 64 chunk by one warpgroup: a device function.

The method is wy.py's: substitution in float32 inside 16 x 16 blocks, then exact products of blocks.
Warp j inverts the diagonal block D_j and then computes block column j of the inverse on its own,
    Y_j = D_j,    Y_i = -D_i sum_{j <= l < i} A_il Y_l,    i = j + 1, ..., 3,
transposed, so that one product's result is the next one's operand as it lies in registers. D and A
are shared once, through shared memory, as sums of two bfloat16 (16 bits); a product of two such
numbers is three tensor-core products, so the result is as good as its own rounding to 16 bits.

Why not Pallas operations: they work on whole warpgroups; nothing here is larger than a warp. A warp
runs this alone on its scheduler, so its time is its number of instructions.
"""

import functools
import itertools

import jax
import jax.experimental.pallas.mosaic_gpu as plgpu
import jax.numpy as jnp
import numpy as np
from jax._src.lib.mlir import ir
from jax._src.lib.mlir.dialects import arith, llvm, nvvm, vector
from jax._src.lib.mlir.dialects import math as mlir_math
from jax.experimental.mosaic import gpu as mgpu
from jax.experimental.mosaic.gpu import utils

CHUNK = 64
BLOCK = 16
WARPS = CHUNK // BLOCK
# Rows of the shared copy start 4 banks apart: a warp's loads and stores hit all 32.
STRIDE = CHUNK + 8

TILE_TRANSFORMS = (plgpu.TilingTransform((8, 64)), plgpu.SwizzleTransform(128))

# One 16 x 16 block in a warp's registers is a dict (half, column, e) -> float32 value: lane
# 4 g + t holds row g + 8 half, column 8 column + 2 t + e. That is the tensor core's layout of
# sums and, packed in pairs, of operand A.
_HALVES = list(itertools.product(range(2), repeat=2))
_ENTRIES = list(itertools.product(range(2), repeat=3))


def scratch():
    """Shared memory for `store_unit_lower_inverse_transposed`."""
    return plgpu.SMEM((2, CHUNK, STRIDE), jnp.bfloat16)


def _i32(value):
    i32 = ir.IntegerType.get_signless(32)
    return arith.constant(i32, ir.IntegerAttr.get(i32, value))


def _ptx(result_type, code, constraints, operands, side_effects=False):
    return llvm.inline_asm(result_type, operands, code, constraints, has_side_effects=side_effects)


def _pack(low, high, kind="bf16"):
    """Two float32 as one word of two 16-bit floats."""
    code = f"cvt.rn.{kind}x2.f32 $0, $1, $2;"
    return _ptx(ir.IntegerType.get_signless(32), code, "=r,f,f", [high, low])


def _unpack(word):
    f32 = ir.F32Type.get()
    low = arith.bitcast(f32, arith.shli(word, _i32(16)))
    high = arith.bitcast(f32, arith.andi(word, _i32(-65536)))
    return low, high


def _split(low, high):
    """Two float32 as words of their bfloat16 roundings and of what those leave."""
    word = _pack(low, high)
    rounded_low, rounded_high = _unpack(word)
    return word, _pack(arith.subf(low, rounded_low), arith.subf(high, rounded_high))


def _words(block):
    """(half, column) -> (word of roundings, word of remainders)."""
    return {(h, c): _split(block[h, c, 0], block[h, c, 1]) for h, c in _HALVES}


def _operand(words):
    """Operand A of `_words`: (words of roundings, words of remainders)."""
    return tuple(zip(*(words[h, c] for c, h in _HALVES), strict=True))


def _transpose(words):
    """`_words` of the transposed block."""
    i32 = ir.IntegerType.get_signless(32)
    code = "movmatrix.sync.aligned.m8n8.trans.b16 $0, $1;"
    return {
        (c, h): tuple(_ptx(i32, code, "=r,r", [word], True) for word in pair)
        for (h, c), pair in words.items()
    }


def _mma(sums, a, b):
    """sums + A B for one 16 x 8 tile; A is 16 x 16, B 16 x 8, in bfloat16."""
    f32 = ir.F32Type.get()
    out = _ptx(
        llvm.StructType.get_literal([f32] * 4),
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{$0,$1,$2,$3}, {$4,$5,$6,$7}, {$8,$9}, {$10,$11,$12,$13};",
        "=f,=f,=f,=f,r,r,r,r,r,r,f,f,f,f",
        [*a, *b, *sums],
    )
    return [llvm.extractvalue(f32, out, [i]) for i in range(4)]


def _address(ref):
    return llvm.ptrtoint(ir.IntegerType.get_signless(32), utils.memref_ptr(ref))


def _store(address, word):
    _ptx(None, "st.shared.b32 [$0], $1;", "r,r", [address, word], True)


class _Shared:
    """The shared copy: D on the diagonal, -A below it, as roundings and remainders."""

    def __init__(self, ref):
        self.base = _address(ref)

    def _address(self, part, row, column):
        index = arith.addi(arith.muli(row, _i32(STRIDE)), column)
        index = arith.addi(index, _i32(part * CHUNK * STRIDE))
        return arith.addi(self.base, arith.shli(index, _i32(1)))

    def store(self, part, row, column, word):
        _store(self._address(part, row, column), word)

    def load(self, part, row, column):
        i32 = ir.IntegerType.get_signless(32)
        address = self._address(part, row, column)
        return _ptx(i32, "ld.shared.b32 $0, [$1];", "=r,r", [address], True)


def _substitute(minus_a, lane):
    """(I + A)^-1 of a warp's block: step r subtracts A's column r times the result's row r."""
    f32, i32 = ir.F32Type.get(), ir.IntegerType.get_signless(32)
    zero, one = (arith.constant(f32, ir.FloatAttr.get(f32, x)) for x in (0.0, 1.0))
    group, member = arith.shrui(lane, _i32(2)), arith.andi(lane, _i32(3))

    def shuffle(value, source):
        word = arith.bitcast(i32, value)
        word = nvvm.shfl_sync(_i32(-1), word, source, _i32(31), nvvm.ShflKind.idx)
        return arith.bitcast(f32, word)

    x = {}
    for h, c, e in _ENTRIES:
        column = arith.addi(arith.shli(member, _i32(1)), _i32(e))
        on_diagonal = arith.cmpi(arith.CmpIPredicate.eq, column, group)
        x[h, c, e] = arith.select(on_diagonal, one, zero) if h == c else zero
    for r in range(BLOCK - 1):
        half, row = divmod(r, 8)
        from_row = arith.addi(_i32(4 * row), member)
        from_column = arith.addi(arith.andi(lane, _i32(28)), _i32(row // 2))
        # The result's row r is zero past column r.
        x_row = {(c, e): shuffle(x[half, c, e], from_row) for c in range(half + 1) for e in (0, 1)}
        for h in range(half, 2):
            if 8 * h + 7 <= r:  # no row of this half is below row r
                continue
            factor = shuffle(minus_a[h, half, row % 2], from_column)
            for (c, e), value in x_row.items():
                x[h, c, e] = mlir_math.fma(factor, value, x[h, c, e])
    return x


def _own_block(blocks, warp, lane):
    """blocks[warp], zero on and above its diagonal (where that is not read, it is left out)."""
    f32 = ir.F32Type.get()
    zero = arith.constant(f32, ir.FloatAttr.get(f32, 0.0))
    group, pair = arith.shrui(lane, _i32(2)), arith.shli(arith.andi(lane, _i32(3)), _i32(1))
    here = [arith.cmpi(arith.CmpIPredicate.eq, warp, _i32(j)) for j in range(1, WARPS)]
    own = {}
    for h, c, e in _ENTRIES:
        if h < c:
            continue
        value = blocks[0][h, c, e]
        for is_here, block in zip(here, blocks[1:], strict=True):
            value = arith.select(is_here, block[h, c, e], value)
        if h == c:
            column = arith.addi(pair, _i32(e))
            below = arith.cmpi(arith.CmpIPredicate.ugt, group, column)
            value = arith.select(below, value, zero)
        own[h, c, e] = value
    return own


@functools.cache
def _store_inverse(kind, transforms):
    """The device function for outputs of PTX type `kind` in a tile with these transforms."""

    @plgpu.inline_mgpu(
        arg_types=(plgpu.Layout.WGMMA, plgpu.RefType(), plgpu.RefType(transforms)),
    )
    def store(ctx, minus_a: mgpu.FragmentedArray, split_ref, out_ref):
        del ctx
        shared, out = _Shared(split_ref), _address(out_ref)
        f32 = ir.F32Type.get()
        lane = arith.remui(utils.thread_idx(), _i32(32))
        warp = arith.remui(utils.warp_idx(sync=True), _i32(WARPS))
        group, member = arith.shrui(lane, _i32(2)), arith.andi(lane, _i32(3))
        pair = arith.shli(member, _i32(1))
        own_row = arith.shli(warp, _i32(4))

        blocks = [{} for _ in range(WARPS)]
        for index, register in np.ndenumerate(minus_a.registers):
            block, c, h = index[1] // 2, index[1] % 2, index[4]
            for e in range(2):
                blocks[block][h, c, e] = vector.extract(
                    register, dynamic_position=[], static_position=[e]
                )

        def share(words, columns):
            for (h, c), parts in words.items():
                row = arith.addi(own_row, arith.addi(group, _i32(8 * h)))
                column = arith.addi(columns, arith.addi(pair, _i32(8 * c)))
                for part, word in enumerate(parts):
                    shared.store(part, row, column, word)

        for j, block in enumerate(blocks[:-1]):
            with utils.when(arith.cmpi(arith.CmpIPredicate.ugt, warp, _i32(j))):
                share(_words(block), _i32(BLOCK * j))
        diagonal = _words(_substitute(_own_block(blocks, warp, lane), lane))
        share(diagonal, own_row)
        utils.warpgroup_barrier()

        def block_row(distance):
            """Of block row warp + distance; the last one again for warps that have none there."""
            row = arith.addi(warp, _i32(distance))
            return arith.shli(arith.minui(row, _i32(WARPS - 1)), _i32(4))

        def add_product(sums, operand, rows, columns):
            """Adds X Z^T, X in registers and Z the shared block that starts there.

            Two sums of each tile, of large and of small products: two short chains instead of a
            long one.
            """
            for c in range(2):
                row = arith.addi(rows, arith.addi(group, _i32(8 * c)))
                high, low = (
                    [
                        shared.load(
                            part, row, arith.addi(columns, arith.addi(pair, _i32(8 * half)))
                        )
                        for half in range(2)
                    ]
                    for part in range(2)
                )
                pairs = ((operand[0], high), (operand[0], low), (operand[1], high))
                for size, (x, z) in zip((0, 1, 1), pairs, strict=True):
                    sums[size][c] = _mma(sums[size][c], x, z)

        zero = arith.constant(f32, ir.FloatAttr.get(f32, 0.0))

        def no_sums():
            return [[[zero] * 4 for _ in range(2)] for _ in range(2)]

        def as_block(sums):
            return {
                (h, c, e): arith.addf(sums[0][c][2 * h + e], sums[1][c][2 * h + e])
                for h, c, e in _ENTRIES
            }

        def emit(distance, block):
            """Stores a block of the transpose, where wgmma and TMA look for it: 128-byte rows,
            16-byte columns permuted by the row's number in its group of 8."""
            block_column = arith.addi(warp, _i32(distance))
            inside = arith.cmpi(arith.CmpIPredicate.ult, block_column, _i32(WARPS))
            block_column = arith.andi(block_column, _i32(WARPS - 1))
            for c in range(2):
                column = arith.addi(arith.shli(block_column, _i32(1)), _i32(c))
                column = arith.shli(arith.xori(column, group), _i32(4))
                for h in range(2):
                    row = arith.addi(own_row, arith.addi(group, _i32(8 * h)))
                    address = arith.addi(arith.shli(row, _i32(7)), column)
                    address = arith.addi(address, arith.shli(member, _i32(2)))
                    word = _pack(block[h, c, 0], block[h, c, 1], kind)
                    if distance:
                        word = arith.select(inside, word, _i32(0))
                    _store(arith.addi(out, address), word)

        first = _transpose(diagonal)
        block = {}
        for (h, c), (high, low) in first.items():
            for e, (x, y) in enumerate(zip(_unpack(high), _unpack(low), strict=True)):
                block[h, c, e] = arith.addf(x, y)
        emit(0, block)
        operands = [_operand(first)]
        for distance in range(1, WARPS):
            rows = block_row(distance)
            sums, outer = no_sums(), no_sums()
            for l, operand in enumerate(operands):
                add_product(sums, operand, rows, block_row(l))
            add_product(outer, _operand(_words(as_block(sums))), rows, rows)
            block = as_block(outer)
            emit(distance, block)
            operands.append(_operand(_words(block)))
        return ()

    return store


def store_unit_lower_inverse_transposed(minus_a: jax.Array, split_ref, out_ref):
    """Stores the transpose of (I + A)^-1; commit shared memory before anything else reads it.

    Args:
        minus_a: -A, [64, 64] float32 in wgmma's layout; entries on and above the diagonal are not
            read.
        split_ref: `scratch()`. Free again once the warpgroup has synchronised.
        out_ref: a [64, 64] tile of bfloat16 or float16 with 128-byte rows, as `smem` makes them.
    """
    kind = {"bfloat16": "bf16", "float16": "f16"}[jnp.dtype(out_ref.dtype).name]
    _store_inverse(kind, TILE_TRANSFORMS)(minus_a, split_ref, out_ref)
