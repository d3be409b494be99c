# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Mosaic GPU kernel of the gradients that are parallel over chunks: dQ, dK, dV, dbeta.

Given what the serial passes leave (U, dX, the state that enters each chunk and the cotangent of the
one that leaves it; the last two transposed, cotangents over `scale`), with G = K K^T:

    dP = tril(dO U^T)     dA = -stril(dX U^T)     dV = B dX     M = B dA
    dQ = dO S^T + dP K
    dK = -dV S^T + U dS^T + (M + M^T) K + dP^T Q
    dbeta = rowsum(dX * (V - K S)) + rowsum(dA * G)

and everything times `scale` at the end.

One program a multiprocessor goes over chunks, values in blocks of 64. Warpgroup 0 makes dQ, dV and
dbeta's first term, warpgroup 1 dK and dbeta's second, warpgroup 2 loads. Shared memory: two stages
of q, k, beta, two stages of a block of everything else, and dP and M, which the first two exchange.
dQ and dK leave from where q and k were.
"""

import jax
import jax.experimental.pallas as pl
import jax.experimental.pallas.mosaic_gpu as plgpu
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from pallas_kernels.delta_rule.kernel_prepare import CHUNK, WGMMA, add_matmul, matmul, smem

BLOCK_V = 64
STAGES = 2
PROGRAMS = 132  # multiprocessors of an H100 or H200; any number is right


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
    total = batch * heads * chunks
    programs = min(PROGRAMS, total)
    blocks = value_size // BLOCK_V
    square = (CHUNK, CHUNK)

    def kernel(*refs):
        q_ref, k_ref, v_ref, beta_ref, do_ref, u_ref, dx_ref, s_ref, ds_ref = refs[:9]
        dq_ref, dk_ref, dv_ref, dbeta_ref = refs[9:]
        program = lax.axis_index("program")
        wg = lax.axis_index("wg")
        count = lax.div(total - program + programs - 1, jnp.int32(programs))

        def place(i):
            """Batch entry, head, chunk and tokens of this program's i-th chunk."""
            index = program + i * programs
            n, index = lax.rem(index, jnp.int32(chunks)), lax.div(index, jnp.int32(chunks))
            b, h = lax.div(index, jnp.int32(heads)), lax.rem(index, jnp.int32(heads))
            return b, h, n, pl.ds(n * CHUNK, CHUNK)

        def spread(x_C, width):
            return lax.broadcast_in_dim(x_C, (CHUNK, width), (0,))

        def load(ref):
            return plgpu.load(ref, layout=WGMMA, optimized=False).astype(jnp.float32)

        def lower(x, keep):
            row, column = (
                plgpu.broadcasted_iota(jnp.int32, square, axis, layout=WGMMA) for axis in (0, 1)
            )
            return jnp.where(keep(row, column), x, 0.0)

        def scoped(
            keys, values, dv_s, dp_s, m_s, keys_full, keys_empty, values_full, values_empty, meet
        ):
            q_s, k_s, beta_s = keys
            do_s, u_s, dx_s, v_s, s_s, ds_s = values

            def stage_of(i, block):
                return lax.rem(i * blocks + block, jnp.int32(STAGES))

            def exchange():
                plgpu.barrier_arrive(meet)
                plgpu.barrier_wait(meet)

            def each_chunk(body):
                @pl.loop(0, count)
                def _(i):
                    slot = lax.rem(i, jnp.int32(STAGES))
                    plgpu.barrier_wait(keys_full.at[slot])
                    beta_C = plgpu.load(beta_s.at[slot], layout=WGMMA.reduce(1), optimized=False)
                    body(i, place(i), q_s.at[slot], k_s.at[slot], beta_C)
                    plgpu.wait_smem_to_gmem(0, wait_read_only=True)
                    plgpu.barrier_arrive(keys_empty.at[slot])

            def each_block(i, body):
                sums = None
                for block in range(blocks):
                    stage = stage_of(i, block)
                    plgpu.barrier_wait(values_full.at[stage])
                    sums = body(sums, block, *(x.at[stage] for x in values))
                    plgpu.barrier_arrive(values_empty.at[stage])
                return sums

            def add(x, shape, *pairs):
                return matmul(shape, *pairs) if x is None else add_matmul(x, *pairs)

            @pl.when(wg == 0)
            def _queries():
                plgpu.set_max_registers(232, action="increase")

                def chunk(i, where, q_s, k_s, beta_C):
                    b, h, n, tokens = where

                    def block(sums, index, do_s, u_s, dx_s, v_s, s_s, ds_s):
                        dp, dq, dbeta_C = (None, None, 0.0) if sums is None else sums
                        read = matmul((CHUNK, BLOCK_V), (k_s, s_s.T))
                        dx = load(dx_s)
                        dbeta_C = dbeta_C + jnp.sum(dx * (load(v_s) - read), axis=1)
                        dp = add(dp, square, (do_s, u_s.T))
                        dq = add(dq, (CHUNK, key_size), (do_s, s_s))
                        plgpu.wait_smem_to_gmem(0, wait_read_only=True)
                        dv_s[...] = (scale * spread(beta_C, BLOCK_V) * dx).astype(dtype)
                        plgpu.commit_smem()
                        inside = pl.ds(index * BLOCK_V, BLOCK_V)
                        plgpu.copy_smem_to_gmem(dv_s, dv_ref.at[b, tokens, h, inside])
                        return dp, dq, dbeta_C

                    dp, dq, dbeta_C = each_block(i, block)
                    dp_s[...] = lower(dp, jnp.greater_equal).astype(dtype)
                    plgpu.commit_smem()
                    exchange()
                    dq = add_matmul(dq, (dp_s, k_s))
                    exchange()
                    q_s[...] = (scale * dq).astype(dtype)
                    plgpu.commit_smem()
                    plgpu.copy_smem_to_gmem(q_s, dq_ref.at[b, tokens, h])
                    dbeta_ref[0, b, h, tokens] = scale * dbeta_C

                each_chunk(chunk)
                plgpu.wait_smem_to_gmem(0)

            @pl.when(wg == 1)
            def _keys():
                plgpu.set_max_registers(232, action="increase")

                def chunk(i, where, q_s, k_s, beta_C):
                    b, h, n, tokens = where

                    def block(sums, index, do_s, u_s, dx_s, v_s, s_s, ds_s):
                        da, dk = (None, None) if sums is None else sums
                        dv = (-spread(beta_C, BLOCK_V) * load(dx_s)).astype(dtype)
                        da = add(da, square, (dx_s, u_s.T))
                        return da, add(dk, (CHUNK, key_size), (dv, s_s), (u_s, ds_s))

                    da, dk = each_block(i, block)
                    da = lower(-da, jnp.greater)
                    m_s[...] = (spread(beta_C, CHUNK) * da).astype(dtype)
                    plgpu.commit_smem()
                    dbeta_C = jnp.sum(da * matmul(square, (k_s, k_s.T)), axis=1)
                    exchange()
                    dk = add_matmul(dk, (m_s, k_s), (m_s.T, k_s), (dp_s.T, q_s))
                    exchange()
                    k_s[...] = (scale * dk).astype(dtype)
                    plgpu.commit_smem()
                    plgpu.copy_smem_to_gmem(k_s, dk_ref.at[b, tokens, h])
                    dbeta_ref[1, b, h, tokens] = scale * dbeta_C

                each_chunk(chunk)
                plgpu.wait_smem_to_gmem(0)

            @pl.when(wg == 2)
            def _load():
                plgpu.set_max_registers(40, action="decrease")

                @pl.loop(0, count)
                def _(i):
                    b, h, n, tokens = place(i)
                    slot = lax.rem(i, jnp.int32(STAGES))

                    @pl.when(i >= STAGES)
                    def _():
                        plgpu.barrier_wait(keys_empty.at[slot])

                    for ref, tile in ((q_ref, q_s), (k_ref, k_s)):
                        plgpu.copy_gmem_to_smem(
                            ref.at[b, tokens, h], tile.at[slot], keys_full.at[slot]
                        )
                    plgpu.copy_gmem_to_smem(
                        beta_ref.at[b, h, tokens], beta_s.at[slot], keys_full.at[slot]
                    )
                    for block in range(blocks):
                        stage = stage_of(i, block)

                        @pl.when(i * blocks + block >= STAGES)
                        def _(stage=stage):
                            plgpu.barrier_wait(values_empty.at[stage])

                        inside = pl.ds(block * BLOCK_V, BLOCK_V)
                        for ref, tile in (
                            (do_ref, do_s),
                            (u_ref, u_s),
                            (dx_ref, dx_s),
                            (v_ref, v_s),
                        ):
                            plgpu.copy_gmem_to_smem(
                                ref.at[b, tokens, h, inside], tile.at[stage], values_full.at[stage]
                            )
                        for ref, tile in ((s_ref, s_s), (ds_ref, ds_s)):
                            plgpu.copy_gmem_to_smem(
                                ref.at[b, h, n, inside], tile.at[stage], values_full.at[stage]
                            )

        keys_tile = smem((STAGES, CHUNK, key_size), dtype)
        values_tile = smem((STAGES, CHUNK, BLOCK_V), dtype)
        state_tile = smem((STAGES, BLOCK_V, key_size), dtype)
        pl.run_scoped(
            scoped,
            [keys_tile, keys_tile, plgpu.SMEM((STAGES, CHUNK), jnp.float32)],
            [values_tile] * 4 + [state_tile] * 2,
            smem((CHUNK, BLOCK_V), dtype),
            smem(square, dtype),
            smem(square, dtype),
            plgpu.Barrier(num_arrivals=3, num_barriers=STAGES),
            plgpu.Barrier(num_arrivals=2, num_barriers=STAGES),
            plgpu.Barrier(num_arrivals=6, num_barriers=STAGES),
            plgpu.Barrier(num_arrivals=2, num_barriers=STAGES),
            plgpu.Barrier(num_arrivals=2),
            collective_axes="wg",
        )

    dq, dk, dv, dbeta = plgpu.kernel(
        kernel,
        out_type=(
            jax.ShapeDtypeStruct(q.shape, dtype),
            jax.ShapeDtypeStruct(k.shape, dtype),
            jax.ShapeDtypeStruct(v.shape, dtype),
            jax.ShapeDtypeStruct((2, *beta.shape), jnp.float32),
        ),
        grid=(programs,),
        grid_names=("program",),
        num_threads=3,
        thread_name="wg",
    )(q, k, v, beta, do, u, dx, states, dstates)
    return dq, dk, dv, dbeta[0] + dbeta[1]
