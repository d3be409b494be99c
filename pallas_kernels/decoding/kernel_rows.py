# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Vectors as the tensor cores give and take them; which register holds what Pallas cannot say."""

import functools

import jax
import jax.experimental.pallas as pl
import jax.experimental.pallas.mosaic_gpu as plgpu
import jax.numpy as jnp
from jax import lax
from jax._src.lib.mlir import ir
from jax._src.lib.mlir.dialects import vector
from jax.experimental.mosaic import gpu as mgpu
from jaxtyping import Array, Float

LINE = 128
ROWS = 64  # of the tensor cores' first operand
# A row of a [64, N] result: a lane has two neighbours, all warps and every four lanes the same.
ROW = plgpu.Layout.WGMMA.reduce(0)
# Every second number of a ROW, in the lanes that have them.
PAIRS = plgpu.Layout.TILED(
    plgpu.Tiling(((4,), (1,))), (plgpu.Replicated(4),), (plgpu.Replicated(8), -2), -1
)


def _array(registers, size, layout) -> mgpu.FragmentedArray:
    """[size] of float32 registers in order."""
    zero = mgpu.utils.c(0.0, ir.F32Type.get())
    like = mgpu.FragmentedArray.splat(zero, (size,), layout.to_mgpu())
    ours = like.registers.copy()
    ours.flat[:] = registers
    return mgpu.FragmentedArray(_registers=ours, _layout=like.layout, _is_signed=None)


@functools.cache
def _first_row(size):
    @plgpu.inline_mgpu(
        arg_types=(plgpu.Layout.WGMMA,),
        return_type=plgpu.ShapeDtypeStruct((size,), jnp.float32, layout=ROW),
    )
    def run(ctx, x: mgpu.FragmentedArray):
        del ctx
        return _array(x.registers[:, :, :, :, 0].flat, size, ROW)

    return run


def first_row(x: jax.Array) -> Float[Array, "N"]:
    """Of x [64, N], float32 in wgmma's layout, whose rows are equal: nothing moves."""
    return _first_row(x.shape[1])(x)


@functools.cache
def _split(size):
    half = plgpu.ShapeDtypeStruct((size,), jnp.float32, layout=PAIRS)

    @plgpu.inline_mgpu(arg_types=(ROW,), return_type=(half, half))
    def run(ctx, x: mgpu.FragmentedArray):
        del ctx
        one = ir.VectorType.get((1,), x.mlir_dtype)

        def every_second(e):
            for register in x.registers.flat:
                value = vector.extract(register, dynamic_position=[], static_position=[e])
                yield vector.broadcast(one, value)

        return tuple(_array(list(every_second(e)), size, PAIRS) for e in range(2))

    return run


def split(x: jax.Array) -> tuple[Float[Array, "n"], Float[Array, "n"]]:
    """(x[::2], x[1::2]) of a ROW [2 n]."""
    return _split(x.shape[0] // 2)(x)


def load_lines(ref, lines, layout) -> Float[Array, "n 128"]:
    """Of a vector in device memory: 128 numbers a line."""
    numbers = ref.at[pl.ds(lines.start * LINE, lines.size * LINE)]
    return plgpu.load(numbers.reshape(lines.size, LINE), layout=layout, optimized=False)


def add_product(sums, row, tile) -> None:
    """Adds tile row to every row of sums [64, N], an accumulator; tile [N, 64], row [64] shared."""
    x = plgpu.load(row, layout=ROW, optimized=False)
    x = lax.broadcast_in_dim(x, (ROWS, row.shape[0]), (1,))
    x = plgpu.layout_cast(x, plgpu.Layout.WGMMA)
    plgpu.wgmma(sums, x, tile.T)
