# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Mosaic GPU kernel of everything that is parallel over chunks: inverse and scores of every chunk.

The inverse is wy.py's: substitution in float32 inside 16 x 16 blocks, then exact block merges
16 -> 32 -> 64. The merges' operands are split into two bfloat16 numbers each (three products), so
they keep 16 bits and the result is as good as its own rounding to 16 bits (README.md, inverse).
"""

import functools

import jax
import jax.experimental.pallas as pl
import jax.experimental.pallas.mosaic_gpu as plgpu
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax._src.lib.mlir import ir
from jax._src.lib.mlir.dialects import arith, nvvm, vector
from jax._src.lib.mlir.dialects import math as mlir_math
from jax.experimental.mosaic import gpu as mgpu
from jaxtyping import Array, Float

CHUNK = 64
BLOCK = 16
WGMMA = plgpu.Layout.WGMMA


def smem(shape, dtype):
    """A shared-memory tile as TMA writes and wgmma reads it, swizzled over its last axis."""
    swizzle = min(128, shape[-1] * jnp.dtype(dtype).itemsize)
    elements = swizzle // jnp.dtype(dtype).itemsize
    transforms = (plgpu.TilingTransform((8, elements)), plgpu.SwizzleTransform(swizzle))
    return plgpu.SMEM(shape, dtype, transforms=transforms)


def matmul(shape, *pairs):
    """Sum of the products of (a, b) pairs, in float32 registers."""

    def body(acc):
        for a, b in pairs:
            plgpu.wgmma(acc, a, b)
        return acc[...]

    return pl.run_scoped(body, plgpu.ACC(shape, jnp.float32))


def add_matmul(x, *pairs):
    """x plus the products of (a, b) pairs, accumulated where x is."""

    def body(acc):
        for a, b in pairs:
            plgpu.wgmma(acc, a, b)

    return pl.run_state(body)(plgpu.ACC.init(x))


@plgpu.inline_mgpu(
    arg_types=(WGMMA, WGMMA),
    return_type=plgpu.ShapeDtypeStruct((CHUNK, BLOCK), jnp.float32, layout=WGMMA),
)
def _substitute(ctx, a: mgpu.FragmentedArray, x: mgpu.FragmentedArray):
    """Solves (I + A) X = I for the four 16 x 16 blocks stacked in [64, 16], one block a warp.

    Row i of a block sits in the four lanes i % 8 * 4 .. + 3, half i // 8; each lane holds columns
    8 c + 2 (lane % 4) + e. Step r subtracts A's column r times X's row r: two warp shuffles' worth
    of broadcasts. `x` is the identity of each block.
    """
    del ctx
    f32 = ir.F32Type.get()
    i32 = ir.IntegerType.get_signless(32)

    def const(value):
        return arith.constant(i32, ir.IntegerAttr.get(i32, value))

    lane = arith.remui(mgpu.utils.thread_idx(), const(32))
    quad = arith.andi(lane, const(28))
    member = arith.andi(lane, const(3))

    def unpack(array):
        values = {}
        for index, register in np.ndenumerate(array.registers):
            for e in range(2):
                values[index[4], index[1], e] = vector.extract(
                    register, dynamic_position=[], static_position=[e]
                )
        return values

    def shuffle(value, source):
        return arith.bitcast(
            f32,
            nvvm.shfl_sync(
                const(-1), arith.bitcast(i32, value), source, const(31), nvvm.ShflKind.idx
            ),
        )

    a_values, x_values = unpack(a), unpack(x)
    for r in range(BLOCK - 1):
        half, row = divmod(r, 8)
        columns = range(half + 1)  # X's row r ends at column r
        from_row = arith.addi(const(4 * row), member)
        from_column = arith.addi(quad, const(row // 2))
        x_row = {(c, e): shuffle(x_values[half, c, e], from_row) for c in columns for e in range(2)}
        for h in range(half, 2):
            factor = arith.negf(shuffle(a_values[h, half, row % 2], from_column))
            for (c, e), value in x_row.items():
                x_values[h, c, e] = mlir_math.fma(factor, value, x_values[h, c, e])

    registers = x.registers.copy()
    for index, register in np.ndenumerate(x.registers):
        for e in range(2):
            register = vector.insert(
                x_values[index[4], index[1], e],
                register,
                dynamic_position=[],
                static_position=[e],
            )
        registers[index] = register
    return mgpu.FragmentedArray(_registers=registers, _layout=x.layout, _is_signed=None)


def _split(x):
    """x as a sum of two bfloat16 arrays, to 16 bits."""
    high = x.astype(jnp.bfloat16)
    return high, (x - high.astype(jnp.float32)).astype(jnp.bfloat16)


def _stage(pair, refs):
    for value, ref in zip(pair, refs, strict=True):
        ref[...] = value
    plgpu.commit_smem()


def _matmul_split(a, b_refs):
    high, low = _split(a)
    b_high, b_low = b_refs
    shape = (a.shape[0], b_high.shape[1])
    return matmul(shape, (high, b_high), (high, b_low), (low, b_high))


def _iota(shape, axis):
    return plgpu.broadcasted_iota(jnp.int32, shape, axis, layout=WGMMA)


def unit_lower_inverse(a, narrow_refs, wide_refs):
    """(I + A)^-1 of one [64, 64] chunk in registers; `a` is zero on and above the diagonal.

    Between the merges the block-diagonal inverses are kept stacked: [64, 16], then [64, 32].
    """
    row, column = (_iota((CHUNK, CHUNK), axis) for axis in (0, 1))

    def widen(x):
        """Stacked diagonal blocks [64, w] -> block-diagonal [64, 64]."""
        width = x.shape[1]
        x = jnp.concatenate([x] * (CHUNK // width), axis=1)
        return jnp.where(row // width == column // width, x, 0.0)

    def narrow(x, width):
        """The inverse of `widen`; what is off the diagonal blocks is dropped."""
        x = jnp.where(row // width == column // width, x, 0.0)
        return sum(x[:, i : i + width] for i in range(width, CHUNK, width)) + x[:, :width]

    def corners(width):
        """A, where merging blocks of `width` needs it: lower left of each pair of blocks."""
        pair = 2 * width
        lower_left = (
            (row // pair == column // pair) & (row % pair >= width) & (column % pair < width)
        )
        return jnp.where(lower_left, a, 0.0)

    identity = jnp.where(
        _iota((CHUNK, BLOCK), 0) % BLOCK == _iota((CHUNK, BLOCK), 1), 1.0, 0.0
    ).astype(jnp.float32)
    inverse = _substitute(narrow(a, BLOCK), identity)
    for width, refs in ((BLOCK, narrow_refs), (2 * BLOCK, wide_refs)):
        # [[P, 0], [L, R]]^-1 = [[P^-1, 0], [-R^-1 L P^-1, R^-1]].
        _stage(_split(inverse), refs)
        product = _matmul_split(corners(width), refs)
        _stage(_split(product), refs)
        corner = _matmul_split(widen(inverse), refs)
        # Even blocks have no corner: their rows of L are zero.
        upper = _iota((CHUNK, width), 0) % (2 * width) < width
        zero = jnp.zeros_like(inverse)
        inverse = jnp.concatenate(
            [jnp.where(upper, inverse, -corner), jnp.where(upper, zero, inverse)], axis=1
        )
    return inverse


def prepare(
    q: Float[Array, "B T H K"], k: Float[Array, "B T H K"], beta: Float[Array, "B H T2"]
) -> tuple[Float[Array, "B H N C C"], Float[Array, "B H N C C"]]:
    """Inverses and scores of all chunks: Ti = (I + stril(diag(beta) K K^T))^-1, P = tril(Q K^T).

    Grid [N, H, B]; one program, of one warpgroup, owns one chunk of one head. Shared memory: q, k
    and staging; everything else is in registers. Tails are zeros: TMA fills what lies past T.

    Args:
        q, k: bfloat16 or float16; K a multiple of 64.
        beta: float32, padded with zeros to whole chunks.
    Returns:
        both in q's dtype.
    """
    batch, length, heads, key_size = q.shape
    chunks = beta.shape[-1] // CHUNK
    dtype = q.dtype

    def kernel(q_ref, k_ref, beta_ref, inverse_ref, scores_ref, *scratch):
        q_s, k_s, out_s, narrow_refs, wide_refs, loaded = scratch
        b, h, n = (lax.axis_index(name) for name in "bhn")
        tokens = pl.ds(n * CHUNK, CHUNK)
        plgpu.copy_gmem_to_smem(k_ref.at[b, tokens, h], k_s, loaded.at[0])
        plgpu.copy_gmem_to_smem(q_ref.at[b, tokens, h], q_s, loaded.at[1])
        beta_C = plgpu.load(beta_ref.at[b, h, tokens], layout=WGMMA.reduce(1), optimized=False)
        row, column = (_iota((CHUNK, CHUNK), axis) for axis in (0, 1))
        plgpu.barrier_wait(loaded.at[0])
        gram = matmul((CHUNK, CHUNK), (k_s, k_s.T))
        beta_CC = lax.broadcast_in_dim(beta_C, (CHUNK, CHUNK), (0,))
        a = jnp.where(row > column, beta_CC * gram, 0.0)
        inverse = unit_lower_inverse(a, narrow_refs, wide_refs)
        out_s[0] = inverse.astype(dtype)
        plgpu.barrier_wait(loaded.at[1])
        scores = matmul((CHUNK, CHUNK), (q_s, k_s.T))
        out_s[1] = jnp.where(row >= column, scores, 0.0).astype(dtype)
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(out_s.at[0], inverse_ref.at[b, h, n])
        plgpu.copy_smem_to_gmem(out_s.at[1], scores_ref.at[b, h, n])
        plgpu.wait_smem_to_gmem(0)

    def entry(*refs):
        pl.run_scoped(
            functools.partial(kernel, *refs),
            smem((CHUNK, key_size), dtype),
            smem((CHUNK, key_size), dtype),
            smem((2, CHUNK, CHUNK), dtype),
            [smem((CHUNK, BLOCK), jnp.bfloat16)] * 2,
            [smem((CHUNK, 2 * BLOCK), jnp.bfloat16)] * 2,
            plgpu.Barrier(num_barriers=2),
        )

    tiles = jax.ShapeDtypeStruct((batch, heads, chunks, CHUNK, CHUNK), dtype)
    return plgpu.kernel(
        entry,
        out_type=(tiles, tiles),
        grid=(chunks, heads, batch),
        grid_names=("n", "h", "b"),
    )(q, k, beta)
