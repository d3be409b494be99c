# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""N = (I + L B)^-1 L of a 64 x 64 chunk by one warpgroup: a device function.

L is the strict lower triangle of K K^T within segments, B = diag(beta). The method is wy.py's:
substitution in float32 inside 16 x 16 blocks, then exact products of blocks. Warp j finds the
diagonal block of block column j by substitution with right-hand side L_jj; from it follows the
inverse of the block's I + L B; then the warp goes down its column on its own:
    D_j = I - N_jj B_j,
    N_ij = D_i (L_ij - sum_{j <= l < i} (L_il B_l) N_lj),    i = j + 1, ..., 3,
transposed, so that one product's result is the next one's operand as it lies in registers, and
negated, as it is wanted. L_ij^T is K K^T's own block (j, i). D and -L B are shared once, through
shared memory, as sums of two bfloat16 (16 bits); a product of two such numbers is three tensor-core
products, so the result is as good as its own rounding to 16 bits.

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
from jax._src.lib.mlir.dialects import arith, llvm
from jax._src.lib.mlir.dialects import math as mlir_math
from jax.experimental.mosaic import gpu as mgpu
from jax.experimental.mosaic.gpu import utils

from pallas_kernels.delta_rule.kernel_ptx import (
    address,
    element,
    i32,
    ptx,
    shuffle,
    store_word,
    zero,
)

CHUNK = 64
BLOCK = 16
WARPS = CHUNK // BLOCK
# Rows of the shared copy start 4 banks apart: a warp's loads and stores hit all 32.
STRIDE = CHUNK + 8
# Roundings and remainders of all block rows but the first, which nothing is multiplied with.
SCRATCH_SHAPE = (2, CHUNK - BLOCK, STRIDE)

TILE_TRANSFORMS = (plgpu.TilingTransform((8, 64)), plgpu.SwizzleTransform(128))

# One 16 x 16 block in a warp's registers is a dict (half, column, e) -> float32 value: lane
# 4 g + t holds row g + 8 half, column 8 column + 2 t + e. That is the tensor core's layout of
# sums and, packed in pairs, of operand A.
_HALVES = list(itertools.product(range(2), repeat=2))
_ENTRIES = list(itertools.product(range(2), repeat=3))


def scratch():
    """Shared memory for `store_correction`."""
    return plgpu.SMEM(SCRATCH_SHAPE, jnp.bfloat16)


def _pack(kind, low, high):
    """Two float32 as one word of two 16-bit floats of PTX type `kind`."""
    code = f"cvt.rn.{kind}x2.f32 $0, $1, $2;"
    return ptx(ir.IntegerType.get_signless(32), code, "=r,f,f", [high, low])


def _unpack(kind, word):
    f32 = ir.F32Type.get()
    if kind == "bf16":
        low = arith.bitcast(f32, arith.shli(word, i32(16)))
        return low, arith.bitcast(f32, arith.andi(word, i32(-65536)))
    code = "{.reg .f16 l, h; mov.b32 {l, h}, $2; cvt.f32.f16 $0, l; cvt.f32.f16 $1, h;}"
    out = ptx(llvm.StructType.get_literal([f32] * 2), code, "=f,=f,r", [word])
    return llvm.extractvalue(f32, out, [0]), llvm.extractvalue(f32, out, [1])


def _words(block, kind="bf16"):
    """(half, column) -> (word of 16-bit roundings, word of the roundings of what those leave)."""
    words = {}
    for h, c in _HALVES:
        values = block[h, c, 0], block[h, c, 1]
        word = _pack(kind, *values)
        rest = [arith.subf(x, y) for x, y in zip(values, _unpack(kind, word), strict=True)]
        words[h, c] = word, _pack(kind, *rest)
    return words


def _operand(words):
    """Operand A of `_words`: (words of roundings, words of remainders)."""
    return tuple(zip(*(words[h, c] for c, h in _HALVES), strict=True))


def _sums(words):
    """The block that `_words` were made of, to their 16 bits."""
    block = {}
    for (h, c), pair in words.items():
        for e, values in enumerate(zip(*(_unpack("bf16", word) for word in pair), strict=True)):
            block[h, c, e] = arith.addf(*values)
    return block


def _transpose(words):
    """`_words` of the transposed block."""
    word_type = ir.IntegerType.get_signless(32)
    code = "movmatrix.sync.aligned.m8n8.trans.b16 $0, $1;"
    return {
        (c, h): tuple(ptx(word_type, code, "=r,r", [word], True) for word in pair)
        for (h, c), pair in words.items()
    }


def _mma(sums, a, b):
    """sums + A B for one 16 x 8 tile; A is 16 x 16, B 16 x 8, in bfloat16."""
    f32 = ir.F32Type.get()
    out = ptx(
        llvm.StructType.get_literal([f32] * 4),
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{$0,$1,$2,$3}, {$4,$5,$6,$7}, {$8,$9}, {$10,$11,$12,$13};",
        "=f,=f,=f,=f,r,r,r,r,r,r,f,f,f,f",
        [*a, *b, *sums],
    )
    return [llvm.extractvalue(f32, out, [i]) for i in range(4)]


class _Shared:
    """The shared copy without its first block row: D on the diagonal, -L B below it."""

    def __init__(self, ref):
        self.base = address(ref)

    def _address(self, part, row, column):
        index = arith.addi(arith.muli(row, i32(STRIDE)), column)
        index = arith.addi(index, i32((part * SCRATCH_SHAPE[1] - BLOCK) * STRIDE))
        return arith.addi(self.base, arith.shli(index, i32(1)))

    def store(self, part, row, column, word):
        store_word(self._address(part, row, column), word)

    def load(self, part, row, column):
        word_type = ir.IntegerType.get_signless(32)
        place = self._address(part, row, column)
        return ptx(word_type, "ld.shared.b32 $0, [$1];", "=r,r", [place], True)


class _Lane:
    """Where a thread is: its warp, and the rows and columns of a block that it holds."""

    def __init__(self):
        self.index = arith.remui(utils.thread_idx(), i32(32))
        self.warp = arith.remui(utils.warp_idx(sync=True), i32(WARPS))
        self.group = arith.shrui(self.index, i32(2))
        self.member = arith.andi(self.index, i32(3))
        self.pair = arith.shli(self.member, i32(1))

    def choose(self, values):
        """values[warp]; the first one for warps past their end."""
        chosen = values[0]
        for j, value in enumerate(values[1:], 1):
            is_here = arith.cmpi(arith.CmpIPredicate.eq, self.warp, i32(j))
            chosen = arith.select(is_here, value, chosen)
        return chosen


def _substitute(x, beta, lane):
    """(I + L B)^-1 X of a warp's block, X = -L: step r subtracts (L B)'s column r times X's row r.

    `x` lacks the 8 x 8 block that is zero; `beta`: (column, e) -> a column's.
    """
    factors = {(h, c, e): arith.mulf(y, beta[c, e]) for (h, c, e), y in x.items()}
    x = dict(x)
    for r in range(1, BLOCK - 1):  # X's row 0 is zero
        half, row = divmod(r, 8)
        from_row = arith.addi(i32(4 * row), lane.member)
        from_column = arith.addi(arith.andi(lane.index, i32(28)), i32(row // 2))
        # X's row r is zero from column r on.
        columns = [c for c in range(half + 1) if 8 * c < r]
        x_row = {(c, e): shuffle(x[half, c, e], from_row) for c in columns for e in (0, 1)}
        for h in range(half, 2):
            if 8 * h + 7 <= r:  # no row of this half is below row r
                continue
            factor = shuffle(factors[h, half, row % 2], from_column)
            for (c, e), value in x_row.items():
                x[h, c, e] = mlir_math.fma(factor, value, x[h, c, e])
    return x


def _own_block(blocks, lane):
    """blocks[warp] below its diagonal: zero on and above it, and no entries where all are zero."""
    own = {}
    for h, c, e in _ENTRIES:
        if h < c:
            continue
        value = lane.choose([block[h, c, e] for block in blocks])
        if h == c:
            column = arith.addi(lane.pair, i32(e))
            below = arith.cmpi(arith.CmpIPredicate.ugt, lane.group, column)
            value = arith.select(below, value, zero())
        own[h, c, e] = value
    return own


def _inverse(x, beta, lane):
    """I - N B of a warp's block from x = -N."""
    one = arith.constant(ir.F32Type.get(), ir.FloatAttr.get(ir.F32Type.get(), 1.0))
    inverse = {}
    for h, c, e in _ENTRIES:
        if h < c:
            inverse[h, c, e] = zero()
            continue
        value = arith.mulf(x[h, c, e], beta[c, e])
        if h == c:
            column = arith.addi(lane.pair, i32(e))
            on_diagonal = arith.cmpi(arith.CmpIPredicate.eq, lane.group, column)
            value = arith.addf(value, arith.select(on_diagonal, one, zero()))
        inverse[h, c, e] = value
    return inverse


def _blocks(array):
    """The 16 x 16 blocks of a warp's 16 rows of a [64, 64] array in wgmma's layout."""
    blocks = [{} for _ in range(WARPS)]
    for (_, column, _, _, h, *_), register in np.ndenumerate(array.registers):
        for e in range(2):
            blocks[column // 2][h, column % 2, e] = element(register, e)
    return blocks


@functools.cache
def _store_correction(kind, transforms, parts):
    """The device function for tiles of PTX type `kind` with these transforms.

    `parts`: 1, or 2 to store what the roundings leave too.
    """

    @plgpu.inline_mgpu(
        arg_types=(
            plgpu.Layout.WGMMA,
            plgpu.Layout.WGMMA.reduce(0),
            plgpu.RefType(),
            *[plgpu.RefType(transforms)] * parts,
        ),
    )
    def store(ctx, gram: mgpu.FragmentedArray, beta: mgpu.FragmentedArray, split_ref, *out_refs):
        del ctx
        shared, outs = _Shared(split_ref), [address(ref) for ref in out_refs]
        lane = _Lane()
        own_row = arith.shli(lane.warp, i32(4))

        minus_gram = [
            {entry: arith.negf(x) for entry, x in block.items()} for block in _blocks(gram)
        ]
        betas = [{} for _ in range(WARPS)]
        for (column, *_), register in np.ndenumerate(beta.registers):
            for e in range(2):
                betas[column // 2][column % 2, e] = element(register, e)

        def share(words, columns):
            for (h, c), pair in words.items():
                row = arith.addi(own_row, arith.addi(lane.group, i32(8 * h)))
                column = arith.addi(columns, arith.addi(lane.pair, i32(8 * c)))
                for part, word in enumerate(pair):
                    shared.store(part, row, column, word)

        for j in range(WARPS - 1):
            with utils.when(arith.cmpi(arith.CmpIPredicate.ugt, lane.warp, i32(j))):
                entries = minus_gram[j].items()
                block = {(h, c, e): arith.mulf(x, betas[j][c, e]) for (h, c, e), x in entries}
                share(_words(block), i32(BLOCK * j))
        own_beta = {entry: lane.choose([x[entry] for x in betas]) for entry in betas[0]}
        diagonal = _substitute(_own_block(minus_gram, lane), own_beta, lane)
        with utils.when(arith.cmpi(arith.CmpIPredicate.ugt, lane.warp, i32(0))):
            share(_words(_inverse(diagonal, own_beta, lane)), own_row)
        utils.warpgroup_barrier()

        def block_row(distance):
            """Of block row warp + distance; the last one again for warps that have none there."""
            row = arith.addi(lane.warp, i32(distance))
            return arith.shli(arith.minui(row, i32(WARPS - 1)), i32(4))

        def load(rows, columns):
            """The shared block that starts there: of each 8 rows, words of both parts."""
            block = []
            for c in range(2):
                row = arith.addi(rows, arith.addi(lane.group, i32(8 * c)))
                places = [arith.addi(columns, arith.addi(lane.pair, i32(8 * h))) for h in range(2)]
                block.append([[shared.load(part, row, x) for x in places] for part in range(2)])
            return block

        def add_product(sums, operand, z):
            """Adds X Z^T, X in registers, to sums of a tile that are themselves to be added: of
            large products, and one or two of small ones. Short chains instead of a long one."""
            for c, (high, low) in enumerate(z):
                pairs = ((operand[0], high), (operand[0], low), (operand[1], high))
                for size, (x, y) in enumerate(pairs):
                    size = min(size, len(sums) - 1)
                    sums[size][c] = _mma(sums[size][c], x, y)

        def no_sums(count):
            return [[[zero()] * 4 for _ in range(2)] for _ in range(count)]

        def as_block(sums):
            return {
                (h, c, e): functools.reduce(arith.addf, [x[c][2 * h + e] for x in sums])
                for h, c, e in _ENTRIES
            }

        def emit(distance, words, block=None):
            """Stores a block of the transpose, given as `words`, where wgmma and TMA look for it:
            128-byte rows, 16-byte columns permuted by the row's number in its group of 8."""
            block_column = arith.addi(lane.warp, i32(distance))
            inside = arith.cmpi(arith.CmpIPredicate.ult, block_column, i32(WARPS))
            block_column = arith.andi(block_column, i32(WARPS - 1))
            if kind != "bf16":
                words = _words(_sums(words) if block is None else block, kind)
            for (h, c), pair in words.items():
                column = arith.addi(arith.shli(block_column, i32(1)), i32(c))
                column = arith.shli(arith.xori(column, lane.group), i32(4))
                row = arith.addi(own_row, arith.addi(lane.group, i32(8 * h)))
                offset = arith.addi(arith.shli(row, i32(7)), column)
                offset = arith.addi(offset, arith.shli(lane.member, i32(2)))
                for out, word in zip(outs, pair, strict=False):
                    if distance:
                        word = arith.select(inside, word, i32(0))
                    store_word(arith.addi(out, offset), word)

        def load_for(distance):
            """What the block at `distance` is multiplied with, and D for the next one."""
            later = range(distance + 1, WARPS)
            column = block_row(distance)
            next_rows = block_row(distance + 1)
            return {i: load(block_row(i), column) for i in later}, load(next_rows, next_rows)

        # From here on blocks are transposed: (-N)_ij^T of block column j = warp. As soon as one is
        # there, its products are added to the sums of all that follow.
        sums = {}
        for distance in range(1, WARPS):
            sums[distance] = no_sums(2)
            # -L_ij^T is -K K^T's block (j, i).
            above = minus_gram[distance:]
            for h, c, e in _ENTRIES:
                sums[distance][0][c][2 * h + e] = lane.choose([block[h, c, e] for block in above])
        factors, next_d = load_for(0)
        block = None
        words = _transpose(_words({**dict.fromkeys(_ENTRIES, zero()), **diagonal}))
        for distance in range(WARPS):
            operand = _operand(words)
            for later, factor in factors.items():
                add_product(sums[later], operand, factor)
            if distance == WARPS - 1:
                emit(distance, words, block)
                break
            outer = no_sums(3)
            add_product(outer, _operand(_words(as_block(sums[distance + 1]))), next_d)
            # In the shadow of that product.
            emit(distance, words, block)
            factors, next_d = load_for(distance + 1)
            block = as_block(outer)
            words = _words(block)
        return ()

    return store


def store_correction(gram: jax.Array, beta: jax.Array, split_ref, *out_refs):
    """Stores (-N)^T; commit shared memory before anything else reads it.

    Args:
        gram: K K^T within segments, [64, 64] float32 in wgmma's layout, symmetric.
        beta: [64] float32, a column's, in that layout reduced over axis 0.
        split_ref: `scratch()`. Free again once the warpgroup has synchronised.
        out_refs: a [64, 64] tile of bfloat16 or float16 with 128-byte rows, as `smem` makes them,
            for the roundings of (-N)^T; optionally another for what they leave.
    """
    kind = {"bfloat16": "bf16", "float16": "f16"}[jnp.dtype(out_refs[0].dtype).name]
    _store_correction(kind, TILE_TRANSFORMS, len(out_refs))(gram, beta, split_ref, *out_refs)
