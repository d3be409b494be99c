# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Mosaic GPU kernel of everything that is parallel over chunks: inverse and scores of every chunk.

Here too: the few shared-memory and tensor-core idioms that all the kernels use.
"""

import jax
import jax.experimental.pallas as pl
import jax.experimental.pallas.mosaic_gpu as plgpu
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from pallas_kernels.delta_rule import kernel_inverse
from pallas_kernels.delta_rule.kernel_inverse import CHUNK, store_unit_lower_inverse_transposed

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


def _iota(shape, axis):
    return plgpu.broadcasted_iota(jnp.int32, shape, axis, layout=WGMMA)


def chunk_scores(q_s, k_s):
    """P = tril(Q K^T), [64, 64] float32, of a chunk in shared memory."""
    row, column = (_iota((CHUNK, CHUNK), axis) for axis in (0, 1))
    return jnp.where(row >= column, matmul((CHUNK, CHUNK), (q_s, k_s.T)), 0.0)


def store_chunk_inverse(k_s, beta_C, split_s, out_ref):
    """Makes the transpose of a chunk's Ti from its keys in shared memory."""
    gram = matmul((CHUNK, CHUNK), (k_s, k_s.T))
    minus_a = lax.broadcast_in_dim(-beta_C, gram.shape, (0,)) * gram
    store_unit_lower_inverse_transposed(minus_a, split_s, out_ref)


def prepare(
    q: Float[Array, "B T H K"], k: Float[Array, "B T H K"], beta: Float[Array, "B H T2"]
) -> tuple[Float[Array, "B H N C C"], Float[Array, "B H N C C"]]:
    """Inverses and scores of all chunks: Ti^T with Ti = (I + stril(diag(beta) K K^T))^-1, and
    P = tril(Q K^T).

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

    def kernel(q_ref, k_ref, beta_ref, inverse_ref, scores_ref):
        b, h, n = (lax.axis_index(name) for name in "bhn")
        tokens = pl.ds(n * CHUNK, CHUNK)

        def scoped(q_s, k_s, out_s, split_s, loaded):
            plgpu.copy_gmem_to_smem(k_ref.at[b, tokens, h], k_s, loaded)
            plgpu.copy_gmem_to_smem(q_ref.at[b, tokens, h], q_s, loaded)
            beta_C = plgpu.load(beta_ref.at[b, h, tokens], layout=WGMMA.reduce(1), optimized=False)
            plgpu.barrier_wait(loaded)
            out_s[1] = chunk_scores(q_s, k_s).astype(dtype)
            store_chunk_inverse(k_s, beta_C, split_s, out_s.at[0])
            plgpu.commit_smem()
            plgpu.copy_smem_to_gmem(out_s.at[0], inverse_ref.at[b, h, n])
            plgpu.copy_smem_to_gmem(out_s.at[1], scores_ref.at[b, h, n])
            plgpu.wait_smem_to_gmem(0)

        pl.run_scoped(
            scoped,
            smem((CHUNK, key_size), dtype),
            smem((CHUNK, key_size), dtype),
            smem((2, CHUNK, CHUNK), dtype),
            kernel_inverse.scratch(),
            plgpu.Barrier(num_arrivals=2),
        )

    tiles = jax.ShapeDtypeStruct((batch, heads, chunks, CHUNK, CHUNK), dtype)
    return plgpu.kernel(
        kernel,
        out_type=(tiles, tiles),
        grid=(chunks, heads, batch),
        grid_names=("n", "h", "b"),
    )(q, k, beta)
