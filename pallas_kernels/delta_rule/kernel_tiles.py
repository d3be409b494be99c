# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Device functions on float32 tiles of 64 rows in a warpgroup's registers, in wgmma's layout.

Pallas has the like of the first two. But `jnp.sum(x, axis=0)` has one scratch for the whole
program, for which warpgroups that sum at the same time would race; and the comparisons of a
`jnp.where` with iotas are moved out of loops, where they hold more registers than the tile.
"""

import functools
import itertools

import jax
import jax.experimental.pallas.mosaic_gpu as plgpu
import jax.numpy as jnp
import numpy as np
from jax._src.lib.mlir import ir
from jax._src.lib.mlir.dialects import arith, llvm, vector
from jax.experimental.mosaic import gpu as mgpu
from jax.experimental.mosaic.gpu import utils
from jaxtyping import Array, Float

from pallas_kernels.delta_rule.kernel_ptx import (
    address,
    element,
    i32,
    lane_and_warp,
    ptx,
    warp_column_sums,
    zero,
)

SIZE = 64
WARPS = 4
SUMS_ROWS = WARPS - 1

# In wgmma's layout, lane 4 g + t of warp w holds rows 16 w + g + 8 half, columns 8 tile + 2 t + e;
# registers[0, tile, 0, 0, half, ...] is the pair of e = 0, 1.


def _with_element(register, e, value):
    return vector.insert(value, register, dynamic_position=[], static_position=[e])


@plgpu.inline_mgpu(arg_types=(plgpu.Layout.WGMMA, plgpu.RefType()))
def _column_sums(ctx, x: mgpu.FragmentedArray, sums_ref):
    """Leaves the sums in sums_ref[0]."""
    del ctx
    f32 = ir.F32Type.get()
    lane, warp = lane_and_warp()
    sums = warp_column_sums(x, lane)
    base = arith.addi(address(sums_ref), arith.shli(lane, i32(3)))

    def store(row, values):
        pointer = arith.addi(base, arith.muli(row, i32(4 * SIZE)))
        ptx(None, "st.shared.v2.f32 [$0], {$1, $2};", "r,f,f", [pointer, *values], True)

    def load(row):
        code = f"ld.shared.v2.f32 {{$0, $1}}, [$2+{4 * SIZE * row}];"
        out = ptx(llvm.StructType.get_literal([f32, f32]), code, "=f,=f,r", [base], True)
        return [llvm.extractvalue(f32, out, [e]) for e in range(2)]

    with utils.when(arith.cmpi(arith.CmpIPredicate.ne, warp, i32(0))):
        store(arith.subi(warp, i32(1)), sums)
    utils.warpgroup_barrier()
    with utils.when(arith.cmpi(arith.CmpIPredicate.eq, warp, i32(0))):
        rows = [sums, *(load(row) for row in range(SUMS_ROWS))]
        store(i32(0), [functools.reduce(arith.addf, column) for column in zip(*rows, strict=True)])
    utils.warpgroup_barrier()
    return ()


def column_sums(x: jax.Array, sums_ref) -> Float[Array, "64"]:
    """Sums over the rows of x, [64, 64]: 16 at a time, then these in turn.

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
        lane, warp = lane_and_warp()
        column = arith.shli(arith.andi(lane, i32(3)), i32(1))
        row = arith.addi(arith.shli(warp, i32(4)), arith.shrui(lane, i32(2)))
        distance = arith.subi(column, row)
        out = x.registers.copy()
        for index, register in np.ndenumerate(x.registers):
            tile, half = index[1], index[4]
            for e in range(2):
                last = 8 * half - 8 * tile - e - int(strictly)
                test = f"setp.le.s32 p, $2, {last}; selp.f32 $0, $1, 0f00000000, p;"
                value = element(register, e)
                value = ptx(value.type, f"{{.reg .pred p; {test}}}", "=f,f,r", [value, distance])
                out[index] = _with_element(out[index], e, value)
        return mgpu.FragmentedArray(_registers=out, _layout=x.layout, _is_signed=None)

    return lower


def lower(x: jax.Array, *, strictly: bool = False) -> Float[Array, "64 64"]:
    """x, [64, 64], with zeros above the diagonal; with `strictly`, on it too."""
    return _lower(strictly)(x)


@functools.cache
def _split(kind, dtype):
    half = plgpu.ShapeDtypeStruct((SIZE, SIZE), dtype, layout=plgpu.Layout.WGMMA)

    @plgpu.inline_mgpu(arg_types=(plgpu.Layout.WGMMA,), return_type=(half, half))
    def split(ctx, x: mgpu.FragmentedArray):
        del ctx
        f32, word = ir.F32Type.get(), ir.IntegerType.get_signless(32)
        pair = ir.VectorType.get((2,), {"bf16": ir.BF16Type, "f16": ir.F16Type}[kind].get())

        def pack(low, high):
            return ptx(word, f"cvt.rn.{kind}x2.f32 $0, $1, $2;", "=r,f,f", [high, low])

        def unpack(rounded):
            if kind == "bf16":
                parts = arith.shli(rounded, i32(16)), arith.andi(rounded, i32(-65536))
                return [arith.bitcast(f32, part) for part in parts]
            code = "{.reg .b16 l, h; mov.b32 {l, h}, $2; cvt.f32.f16 $0, l; cvt.f32.f16 $1, h;}"
            out = ptx(llvm.StructType.get_literal([f32, f32]), code, "=f,=f,r", [rounded])
            return [llvm.extractvalue(f32, out, [e]) for e in range(2)]

        def as_pair(packed):
            packed = vector.broadcast(ir.VectorType.get((1,), word), packed)
            return vector.bitcast(pair, packed)

        outs = np.empty_like(x.registers), np.empty_like(x.registers)
        for index, register in np.ndenumerate(x.registers):
            values = [element(register, e) for e in range(2)]
            rounded = pack(*values)
            rest = pack(*(arith.subf(*y) for y in zip(values, unpack(rounded), strict=True)))
            for out, packed in zip(outs, (rounded, rest), strict=True):
                out[index] = as_pair(packed)
        return tuple(
            mgpu.optimization_barrier(
                mgpu.FragmentedArray(_registers=out, _layout=x.layout, _is_signed=None)
            )
            for out in outs
        )

    return split


def split(x: jax.Array, dtype) -> tuple[Float[Array, "64 64"], Float[Array, "64 64"]]:
    """x, [64, 64], rounded to 16 bits, and what that leaves, rounded too."""
    kind = {"bfloat16": "bf16", "float16": "f16"}[jnp.dtype(dtype).name]
    return _split(kind, jnp.dtype(dtype))(x)


def _entries(ref, width):
    """Of every register of ref^T: index, e, and its address as base and offset in bytes."""
    strides, _ = ref.type.get_strides_and_offset()
    lane, warp = lane_and_warp()
    column = arith.shli(arith.andi(lane, i32(3)), i32(1))
    row = arith.addi(arith.shli(warp, i32(4)), arith.shrui(lane, i32(2)))
    distance = arith.addi(arith.muli(column, i32(strides[0])), arith.muli(row, i32(strides[1])))
    i64 = ir.IntegerType.get_signless(64)
    base = llvm.ptrtoint(i64, utils.memref_ptr(ref))
    base = arith.addi(base, arith.extui(i64, arith.shli(distance, i32(2))))
    for tile, half, e in itertools.product(range(width // 8), range(2), range(2)):
        offset = (8 * tile + e) * strides[0] + 8 * half * strides[1]
        yield (0, tile, 0, 0, half, 0, 0, 0, 0), e, base, 4 * offset


@functools.cache
def _load_transposed(width):
    @plgpu.inline_mgpu(
        arg_types=(plgpu.RefType(),),
        return_type=plgpu.ShapeDtypeStruct((SIZE, width), jnp.float32, layout=plgpu.Layout.WGMMA),
    )
    def load(ctx, ref):
        del ctx
        x = mgpu.FragmentedArray.splat(zero(), (SIZE, width), mgpu.WGMMA_LAYOUT)
        out = x.registers.copy()
        for index, e, base, offset in _entries(ref, width):
            code = f"ld.global.f32 $0, [$1+{offset}];"
            value = ptx(ir.F32Type.get(), code, "=f,l", [base], True)
            out[index] = _with_element(out[index], e, value)
        return mgpu.FragmentedArray(_registers=out, _layout=x.layout, _is_signed=None)

    return load


def load_transposed(ref, *, over: float = 1.0) -> Float[Array, "64 K"]:
    """The transpose of ref, [K, 64] float32 in device memory, over a constant."""
    x = _load_transposed(ref.shape[0])(ref)
    return x if over == 1 else x * (1 / over)


@plgpu.inline_mgpu(arg_types=(plgpu.RefType(), plgpu.Layout.WGMMA))
def _store_transposed(ctx, ref, x: mgpu.FragmentedArray):
    del ctx
    for index, e, base, offset in _entries(ref, x.shape[1]):
        value = element(x.registers[index], e)
        ptx(None, f"st.global.f32 [$0+{offset}], $1;", "l,f", [base, value], True)
    return ()


def store_transposed(ref, x: jax.Array, *, times: float = 1.0):
    """Stores the transpose of x, [64, K], times a constant, at ref in device memory."""
    _store_transposed(ref, x if times == 1 else x * times)
