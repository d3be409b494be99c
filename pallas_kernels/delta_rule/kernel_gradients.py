# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Mosaic GPU kernel of the gradients that are parallel over chunks: dQ, dK, dV, dbeta.

Given what the serial passes leave (U, dX, the state that enters each chunk and the cotangent of the
one that leaves it; the last two transposed, cotangents over `scale`), with G = K K^T:

    dP = tril(dO U^T)     dA = -stril(dX U^T)     dV = B dX     M = B dA
    dQ = dO S^T + dP K
    dK = -dV S^T + U dS^T + (M + M^T) K + dP^T Q
    dbeta = rowsum(dX * (V - K S)) + rowsum(dA * G)

and everything times `scale` at the end. Grid [N, H, B]; a program, of one warpgroup, owns one chunk
of one head and goes over the values in blocks of 64. Shared memory: q and k, one block of the rest,
dP and M; results are staged where their inputs were. In registers: dQ, dK, dP, dA.
"""

import jax
import jax.experimental.pallas as pl
import jax.experimental.pallas.mosaic_gpu as plgpu
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from pallas_kernels.delta_rule.kernel_prepare import CHUNK, WGMMA, add_matmul, matmul, smem

BLOCK_V = 64


def gradients(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B T H K"],
    v: Float[Array, "B T H V"],
    beta: Float[Array, "B H T2"],
    do: Float[Array, "B T H V"],
    u: Float[Array, "B T H V"],
    dx: Float[Array, "B T H V"],
    states: Float[Array, "B H N V K"],
    dstates: Float[Array, "B H N V K"],
    *,
    scale: float,
) -> tuple[
    Float[Array, "B T H K"],
    Float[Array, "B T H K"],
    Float[Array, "B T H V"],
    Float[Array, "B H T2"],
]:
    """dQ, dK, dV in the inputs' dtype and dbeta in float32."""
    batch, heads, chunks, value_size, key_size = states.shape
    dtype = q.dtype

    def kernel(q_ref, k_ref, v_ref, beta_ref, do_ref, u_ref, dx_ref, s_ref, ds_ref, *rest):
        dq_ref, dk_ref, dv_ref, dbeta_ref = rest
        b, h, n = (lax.axis_index(name) for name in "bhn")
        tokens = pl.ds(n * CHUNK, CHUNK)
        beta_C = plgpu.load(beta_ref.at[b, h, tokens], layout=WGMMA.reduce(1), optimized=False)

        def scoped(q_s, k_s, v_s, do_s, u_s, dx_s, s_s, ds_s, keys, values):
            plgpu.copy_gmem_to_smem(k_ref.at[b, tokens, h], k_s, keys)
            plgpu.copy_gmem_to_smem(q_ref.at[b, tokens, h], q_s, keys)

            def load(block):
                inside = pl.ds(block * BLOCK_V, BLOCK_V)
                for ref, tile in ((do_ref, do_s), (u_ref, u_s), (dx_ref, dx_s), (v_ref, v_s)):
                    plgpu.copy_gmem_to_smem(ref.at[b, tokens, h, inside], tile, values)
                for ref, tile in ((s_ref, s_s), (ds_ref, ds_s)):
                    plgpu.copy_gmem_to_smem(ref.at[b, h, n, inside], tile, values)

            def spread(x_C, width):
                return lax.broadcast_in_dim(x_C, (CHUNK, width), (0,))

            load(0)
            square = (CHUNK, CHUNK)
            row, column = (
                plgpu.broadcasted_iota(jnp.int32, square, axis, layout=WGMMA) for axis in (0, 1)
            )

            sums = {}

            def add(name, shape, *pairs):
                sums[name] = add_matmul(sums[name], *pairs) if name in sums else matmul(shape, *pairs)

            dbeta_C = plgpu.layout_cast(jnp.zeros((CHUNK,), jnp.float32), WGMMA.reduce(1))
            plgpu.barrier_wait(keys)
            for block in range(value_size // BLOCK_V):
                plgpu.barrier_wait(values)
                dx_block = plgpu.load(dx_s, layout=WGMMA, optimized=False).astype(jnp.float32)
                v_block = plgpu.load(v_s, layout=WGMMA, optimized=False).astype(jnp.float32)
                dv = spread(beta_C, BLOCK_V) * dx_block
                add("dp", square, (do_s, u_s.T))
                add("da", square, (dx_s, u_s.T))
                error = v_block - matmul((CHUNK, BLOCK_V), (k_s, s_s.T))
                dbeta_C = dbeta_C + jnp.sum(dx_block * error, axis=1)
                add("dq", (CHUNK, key_size), (do_s, s_s))
                add("dk", (CHUNK, key_size), ((-dv).astype(dtype), s_s), (u_s, ds_s))
                dx_s[...] = (scale * dv).astype(dtype)
                plgpu.commit_smem()
                inside = pl.ds(block * BLOCK_V, BLOCK_V)
                plgpu.copy_smem_to_gmem(dx_s, dv_ref.at[b, tokens, h, inside])
                if (block + 1) * BLOCK_V < value_size:
                    plgpu.wait_smem_to_gmem(0, wait_read_only=True)
                    load(block + 1)

            dp = jnp.where(row >= column, sums["dp"], 0.0)
            da = jnp.where(row > column, -sums["da"], 0.0)
            gram = matmul(square, (k_s, k_s.T))
            dbeta_C = dbeta_C + jnp.sum(da * gram, axis=1)
            dp_s, m_s = do_s, u_s  # two programs a multiprocessor, if nothing is wasted
            dp_s[...] = dp.astype(dtype)
            m_s[...] = (spread(beta_C, CHUNK) * da).astype(dtype)
            plgpu.commit_smem()
            dq = add_matmul(sums["dq"], (dp_s, k_s))
            dk = add_matmul(sums["dk"], (m_s, k_s), (m_s.T, k_s), (dp_s.T, q_s))
            q_s[...] = (scale * dq).astype(dtype)
            k_s[...] = (scale * dk).astype(dtype)
            plgpu.commit_smem()
            plgpu.copy_smem_to_gmem(q_s, dq_ref.at[b, tokens, h])
            plgpu.copy_smem_to_gmem(k_s, dk_ref.at[b, tokens, h])
            dbeta_ref[b, h, tokens] = scale * dbeta_C
            plgpu.wait_smem_to_gmem(0)

        keys_tile = smem((CHUNK, key_size), dtype)
        values_tile = smem((CHUNK, BLOCK_V), dtype)
        state_tile = smem((BLOCK_V, key_size), dtype)
        pl.run_scoped(
            scoped,
            *([keys_tile] * 2 + [values_tile] * 4 + [state_tile] * 2),
            plgpu.Barrier(num_arrivals=2),
            plgpu.Barrier(num_arrivals=6),
        )

    return plgpu.kernel(
        kernel,
        out_type=(
            jax.ShapeDtypeStruct(q.shape, dtype),
            jax.ShapeDtypeStruct(k.shape, dtype),
            jax.ShapeDtypeStruct(v.shape, dtype),
            jax.ShapeDtypeStruct(beta.shape, jnp.float32),
        ),
        grid=(chunks, heads, batch),
        grid_names=("n", "h", "b"),
    )(q, k, v, beta, do, u, dx, states, dstates)
