# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Device functions on a 64 x 64 float32 tile in a warpgroup's registers, in wgmma's layout.

Pallas has both. But `jnp.sum(x, axis=0)` has one scratch for the whole program, for which
warpgroups that sum at the same time would race; and the comparisons of a `jnp.where` with iotas are
moved out of loops, where they hold more registers than the tile.
"""

import functools
import itertools

import jax
import jax.experimental.pallas.mosaic_gpu as plgpu
import jax.numpy as jnp
import numpy as np
from jax._src.lib.mlir import ir
from jax._src.lib.mlir.dialects import arith, llvm, nvvm, vector
from jax.experimental.mosaic import gpu as mgpu
from jax.experimental.mosaic.gpu import utils
from jaxtyping import Array, Float

SIZE = 64
WARPS = 4

# In wgmma's layout, lane 4 g + t of warp w holds rows 16 w + g + 8 half, columns 8 tile + 2 t + e:
# registers[tile, half] is the pair of e = 0, 1.


SUMS_ROWS = WARPS - 1


def _i32(value):
    i32 = ir.IntegerType.get_signless(32)
    return arith.constant(i32, ir.IntegerAttr.get(i32, value))


def _lane_and_warp():
    lane = arith.remui(utils.thread_idx(), _i32(32))
    return lane, arith.remui(utils.warp_idx(sync=True), _i32(WARPS))


def _entry(register, e):
    return vector.extract(register, dynamic_position=[], static_position=[e])


@plgpu.inline_mgpu(arg_types=(plgpu.Layout.WGMMA, plgpu.RefType()))
def _column_sums(ctx, x: mgpu.FragmentedArray, sums_ref):
    """Leaves the sums in sums_ref[0]."""
    del ctx
    f32, i32 = ir.F32Type.get(), ir.IntegerType.get_signless(32)
    lane, warp = _lane_and_warp()

    def from_lane(value, distance):
        word = arith.bitcast(i32, value)
        word = nvvm.shfl_sync(_i32(-1), word, _i32(distance), _i32(31), nvvm.ShflKind.bfly)
        return arith.bitcast(f32, word)

    tiles = [
        [arith.addf(_entry(upper, e), _entry(lower, e)) for e in range(2)]
        for upper, lower in x.registers.reshape(8, 2)
    ]
    # At every step a lane gives half of its tiles to the lane across for that one's other half.
    for distance in (16, 8, 4):
        bit = arith.andi(lane, _i32(distance))
        is_upper = arith.cmpi(arith.CmpIPredicate.ne, bit, _i32(0))
        half = len(tiles) // 2
        merged = []
        for low, high in zip(tiles[:half], tiles[half:], strict=True):
            given = [arith.select(is_upper, a, b) for a, b in zip(low, high, strict=True)]
            kept = [arith.select(is_upper, b, a) for a, b in zip(low, high, strict=True)]
            merged.append(
                [arith.addf(a, from_lane(b, distance)) for a, b in zip(kept, given, strict=True)]
            )
        tiles = merged
    # Tile g is left to lanes 4 g + t: columns 2 lane and 2 lane + 1.
    sums = tiles[0]
    base = llvm.ptrtoint(i32, utils.memref_ptr(sums_ref))
    base = arith.addi(base, arith.shli(lane, _i32(3)))
    first = arith.cmpi(arith.CmpIPredicate.eq, warp, _i32(0))

    def store(row, values):
        address = arith.addi(base, arith.muli(row, _i32(4 * SIZE)))
        code = "st.shared.v2.f32 [$0], {$1, $2};"
        llvm.inline_asm(None, [address, *values], code, "r,f,f", has_side_effects=True)

    def load(row):
        pair = llvm.StructType.get_literal([f32, f32])
        code = f"ld.shared.v2.f32 {{$0, $1}}, [$2+{4 * SIZE * row}];"
        out = llvm.inline_asm(pair, [base], code, "=f,=f,r", has_side_effects=True)
        return [llvm.extractvalue(f32, out, [e]) for e in range(2)]

    with utils.when(arith.cmpi(arith.CmpIPredicate.ne, warp, _i32(0))):
        store(arith.subi(warp, _i32(1)), sums)
    utils.warpgroup_barrier()
    with utils.when(first):
        rows = [sums, *(load(row) for row in range(SUMS_ROWS))]
        store(_i32(0), [functools.reduce(arith.addf, column) for column in zip(*rows, strict=True)])
    utils.warpgroup_barrier()
    return ()


def column_sums(x: jax.Array, sums_ref) -> Float[Array, "64"]:
    """Sums over the rows of x, [64, 64] float32.

    sums_ref: [SUMS_ROWS, 64] float32 of shared memory, this warpgroup's own; all of it must be past
    this before it is used again.
    """
    _column_sums(x, sums_ref)
    return plgpu.load(sums_ref.at[0], layout=plgpu.Layout.WGMMA.reduce(0), optimized=False)


@functools.cache
def _lower(strictly):
    @plgpu.inline_mgpu(
        arg_types=(plgpu.Layout.WGMMA,),
        return_type=plgpu.ShapeDtypeStruct((SIZE, SIZE), jnp.float32, layout=plgpu.Layout.WGMMA),
    )
    def lower(ctx, x: mgpu.FragmentedArray):
        del ctx
        lane, warp = _lane_and_warp()
        column = arith.shli(arith.andi(lane, _i32(3)), _i32(1))
        row = arith.addi(arith.shli(warp, _i32(4)), arith.shrui(lane, _i32(2)))
        distance = arith.subi(column, row)
        out = np.empty_like(x.registers)
        for index, register in np.ndenumerate(x.registers):
            tile, half = index[1], index[4]
            for e in range(2):
                last = 8 * half - 8 * tile - e - int(strictly)
                code = (
                    f"{{.reg .pred p; setp.le.s32 p, $2, {last}; selp.f32 $0, $1, 0f00000000, p;}}"
                )
                value = _entry(register, e)
                value = llvm.inline_asm(value.type, [value, distance], code, "=f,f,r")
                register = vector.insert(value, register, dynamic_position=[], static_position=[e])
            out[index] = register
        return mgpu.FragmentedArray(_registers=out, _layout=x.layout, _is_signed=None)

    return lower


def lower(x: jax.Array, *, strictly: bool = False) -> Float[Array, "64 64"]:
    """x, [64, 64] float32, with zeros above the diagonal; with `strictly`, on it too."""
    return _lower(strictly)(x)


def _transposed_entries(ref, tiles):
    """(tile, half, e) and the address of its entry of ref^T, ref in device memory."""
    strides, _ = ref.type.get_strides_and_offset()
    lane, warp = _lane_and_warp()
    column = arith.shli(arith.andi(lane, _i32(3)), _i32(1))
    row = arith.addi(arith.shli(warp, _i32(4)), arith.shrui(lane, _i32(2)))
    index = arith.addi(arith.muli(column, _i32(strides[0])), arith.muli(row, _i32(strides[1])))
    i64 = ir.IntegerType.get_signless(64)
    base = llvm.ptrtoint(i64, utils.memref_ptr(ref))
    base = arith.addi(base, arith.extui(i64, arith.shli(index, _i32(2))))
    for tile, half, e in itertools.product(range(tiles), range(2), range(2)):
        yield (tile, half, e), base, 4 * ((8 * tile + e) * strides[0] + 8 * half * strides[1])


@functools.cache
def _load_transposed(width):
    @plgpu.inline_mgpu(
        arg_types=(plgpu.RefType(),),
        return_type=plgpu.ShapeDtypeStruct((SIZE, width), jnp.float32, layout=plgpu.Layout.WGMMA),
    )
    def load(ctx, ref):
        del ctx
        f32 = ir.F32Type.get()
        zeros = mgpu.FragmentedArray.splat(
            arith.constant(f32, ir.FloatAttr.get(f32, 0.0)), (SIZE, width), mgpu.WGMMA_LAYOUT
        )
        out = zeros.registers.copy()
        for (tile, half, e), base, offset in _transposed_entries(ref, width // 8):
            code = f"ld.global.f32 $0, [$1+{offset}];"
            value = llvm.inline_asm(f32, [base], code, "=f,l", has_side_effects=True)
            index = (0, tile, 0, 0, half, *(0,) * (out.ndim - 5))
            out[index] = vector.insert(value, out[index], dynamic_position=[], static_position=[e])
        return mgpu.FragmentedArray(_registers=out, _layout=zeros.layout, _is_signed=None)

    return load


def load_transposed(ref) -> Float[Array, "64 K"]:
    """The transpose of ref, [K, 64] float32 in device memory."""
    return _load_transposed(ref.shape[0])(ref)


@plgpu.inline_mgpu(arg_types=(plgpu.RefType(), plgpu.Layout.WGMMA))
def _store_transposed(ctx, ref, x: mgpu.FragmentedArray):
    del ctx
    for (tile, half, e), base, offset in _transposed_entries(ref, x.shape[1] // 8):
        index = (0, tile, 0, 0, half, *(0,) * (x.registers.ndim - 5))
        value = _entry(x.registers[index], e)
        code = f"st.global.f32 [$0+{offset}], $1;"
        llvm.inline_asm(None, [base, value], code, "l,f", has_side_effects=True)
    return ()


def store_transposed(ref, x: jax.Array):
    """Stores the transpose of x, [64, K] float32 in wgmma's layout, at ref in device memory."""
    _store_transposed(ref, x)
