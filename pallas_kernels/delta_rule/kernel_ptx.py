# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Device code below Pallas: words, warps and the shuffles that its operations cannot express."""

import functools

import jax
import jax.experimental.pallas.mosaic_gpu as plgpu
import numpy as np
from jax._src.lib.mlir import ir
from jax._src.lib.mlir.dialects import arith, llvm, nvvm, vector
from jax.experimental.mosaic import gpu as mgpu
from jax.experimental.mosaic.gpu import utils


def i32(value):
    """A word."""
    word = ir.IntegerType.get_signless(32)
    return arith.constant(word, ir.IntegerAttr.get(word, value))


def zero():
    return arith.constant(ir.F32Type.get(), ir.FloatAttr.get(ir.F32Type.get(), 0.0))


def ptx(result_type, code, constraints, operands, side_effects=False):
    return llvm.inline_asm(result_type, operands, code, constraints, has_side_effects=side_effects)


def address(ref):
    return llvm.ptrtoint(ir.IntegerType.get_signless(32), utils.memref_ptr(ref))


def store_word(address, word):
    ptx(None, "st.shared.b32 [$0], $1;", "r,r", [address, word], True)


def element(register, e):
    return vector.extract(register, dynamic_position=[], static_position=[e])


def shuffle(value, source, kind=nvvm.ShflKind.idx):
    """The float32 `value` of lane `source`, or with ShflKind.bfly of lane own ^ source."""
    word = arith.bitcast(ir.IntegerType.get_signless(32), value)
    word = nvvm.shfl_sync(i32(-1), word, source, i32(31), kind)
    return arith.bitcast(ir.F32Type.get(), word)


def lane_and_warp():
    """A thread's lane in its warp and its warp in its warpgroup."""
    lane = arith.remui(utils.thread_idx(), i32(32))
    return lane, arith.remui(utils.warp_idx(sync=True), i32(4))


def warp_column_sums(x: mgpu.FragmentedArray, lane):
    """Sums over the 16 rows that a warp holds of x, [64, 64]: a lane's columns 2 lane, 2 lane + 1.

    x is in wgmma's layout: lane 4 g + t holds columns 8 c + 2 t + e of rows g and g + 8.
    """
    sums = [[zero()] * 2 for _ in range(8)]
    for (_, c, *_), register in np.ndenumerate(x.registers):
        for e in range(2):
            sums[c][e] = arith.addf(sums[c][e], element(register, e))
    # Each step sums over one bit of g and halves the columns a lane holds: c = g in the end.
    for bit in (16, 8, 4):
        upper = arith.cmpi(arith.CmpIPredicate.ne, arith.andi(lane, i32(bit)), i32(0))
        half = len(sums) // 2
        kept = []
        for low, high in zip(sums[:half], sums[half:], strict=True):
            kept.append([])
            for x0, x1 in zip(low, high, strict=True):
                other = shuffle(arith.select(upper, x0, x1), i32(bit), nvvm.ShflKind.bfly)
                kept[-1].append(arith.addf(arith.select(upper, x1, x0), other))
        sums = kept
    return sums[0]


@functools.cache
def _column_sums():
    @plgpu.inline_mgpu(arg_types=(plgpu.Layout.WGMMA, plgpu.RefType()))
    def store(ctx, x: mgpu.FragmentedArray, out_ref):
        del ctx
        lane, warp = lane_and_warp()
        sums = warp_column_sums(x, lane)
        (row_stride, _), _ = ir.MemRefType(out_ref.type).get_strides_and_offset()
        offset = arith.addi(arith.muli(warp, i32(4 * row_stride)), arith.shli(lane, i32(3)))
        long = ir.IntegerType.get_signless(64)
        pointer = llvm.ptrtoint(long, utils.memref_ptr(out_ref))
        pointer = arith.addi(pointer, arith.extui(long, offset))
        ptx(None, "st.global.v2.f32 [$0], {$1, $2};", "l,f,f", [pointer, *sums], True)
        return ()

    return store


def column_sums(x: jax.Array, out_ref):
    """Stores sums over rows.

    Args:
        x: [64, 64] float32 in wgmma's layout.
        out_ref: [4, 64] float32 in global memory; row i gets the sums of rows 16 i to 16 i + 15.
    """
    _column_sums()(x, out_ref)
