# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Mosaic GPU kernel of the gradients that are parallel over chunks: dQ and dK.

Given what the serial passes leave (D, dV, the state that enters each chunk and the cotangent dS of
the one that leaves it; the last two transposed, dS over `scale`), README.md's eqs. 24 and 25, with
B = diag(beta) and M negated, so that dV is an operand as it lies in shared memory:

    dP = scale tril(dO D^T) B     M = stril(dV D^T) B
    dQ = scale dO S^T + dP K
    -dK = dV S^T - scale B D dS^T + (M + M^T) K - dP^T Q

One program a multiprocessor goes over chunks, values in blocks of 64. Warpgroup 0 makes dQ,
warpgroup 1 dK, warpgroup 2 loads. Shared memory: stages of q, k, beta, stages of a block of
everything else, and -dP and M, which the first two exchange. dQ and dK leave from where q and k
were.
"""

import jax
import jax.experimental.pallas as pl
import jax.experimental.pallas.mosaic_gpu as plgpu
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from pallas_kernels.delta_rule.kernel_prepare import (
    CHUNK,
    WGMMA,
    add_matmul,
    load_row,
    lower_mask,
    matmul,
    smem,
)
from pallas_kernels.delta_rule.kernel_serial import SHARED_BYTES

BLOCK_V = 64
PROGRAMS = 132  # multiprocessors of an H100 or H200; any number is right


def _stages(key_size):
    """Stages of keys and of blocks of values: two of each, if shared memory holds them."""
    tile = 2 * CHUNK * 64
    keys, values = 2 * tile * (key_size // 64), tile * (3 + 2 * (key_size // 64))
    both = 2 * (keys + values) + 2 * tile + 4096  # beta, marks
    return 2 if both <= SHARED_BYTES else 1


def gradients(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B T H K"],
    beta: Float[Array, "B H T2"],
    do: Float[Array, "B T H V"],
    d: Float[Array, "B T H V"],
    dv: Float[Array, "B T H V"],
    marks: Float[Array, "B N 4 C"] | None,
    states: Float[Array, "B H N V K"],
    dstates: Float[Array, "B H N V K"],
    *,
    scale: float,
) -> tuple[Float[Array, "B T H K"], Float[Array, "B T H K"]]:
    """dQ and dK in the inputs' dtype. `marks`: `segment_marks`, if rows have segments."""
    batch, heads, chunks, value_size, key_size = states.shape
    dtype = q.dtype
    total = batch * heads * chunks
    programs = min(PROGRAMS, total)
    blocks = value_size // BLOCK_V
    stages = _stages(key_size)
    square = (CHUNK, CHUNK)

    def kernel(*refs):
        q_ref, k_ref, beta_ref, do_ref, d_ref, dv_ref, s_ref, ds_ref = refs[:8]
        marks_ref = None if marks is None else refs[8]
        dq_ref, dk_ref = refs[-2:]
        program = lax.axis_index("program")
        wg = lax.axis_index("wg")
        count = lax.div(total - program + programs - 1, jnp.int32(programs))

        def place(i):
            """Batch entry, head, chunk and tokens of this program's i-th chunk."""
            index = program + i * programs
            n, index = lax.rem(index, jnp.int32(chunks)), lax.div(index, jnp.int32(chunks))
            b, h = lax.div(index, jnp.int32(heads)), lax.rem(index, jnp.int32(heads))
            return b, h, n, pl.ds(n * CHUNK, CHUNK)

        def rows(x_C, width):
            return lax.broadcast_in_dim(x_C, (CHUNK, width), (0,))

        def columns(x_C):
            return lax.broadcast_in_dim(x_C, square, (1,))

        def load(ref):
            return plgpu.load(ref, layout=WGMMA, optimized=False).astype(jnp.float32)

        def only(x, marks_s, mark):
            """Rows of x whose token has the mark (0 reads, 1 writes), zeros elsewhere."""
            return jnp.where(rows(load_row(marks_s.at[mark], 0), x.shape[1]) > 0, x, 0.0)

        def scoped(
            keys, values, minus_dp_s, m_s, keys_full, keys_empty, values_full, values_empty, meet
        ):
            def stage_of(i, block):
                return lax.rem(i * blocks + block, jnp.int32(stages))

            def exchange():
                plgpu.barrier_arrive(meet)
                plgpu.barrier_wait(meet)

            def each_chunk(body):
                @pl.loop(0, count)
                def _(i):
                    slot = lax.rem(i, jnp.int32(stages))
                    plgpu.barrier_wait(keys_full.at[slot])
                    body(i, place(i), *(None if x is None else x.at[slot] for x in keys))
                    plgpu.wait_smem_to_gmem(0, wait_read_only=True)
                    plgpu.barrier_arrive(keys_empty.at[slot])

            def each_block(i, body):
                sums = None
                for block in range(blocks):
                    stage = stage_of(i, block)
                    plgpu.barrier_wait(values_full.at[stage])
                    sums = body(sums, *(x.at[stage] for x in values))
                    plgpu.barrier_arrive(values_empty.at[stage])
                return sums

            def add(x, shape, *pairs):
                return matmul(shape, *pairs) if x is None else add_matmul(x, *pairs)

            @pl.when(wg == 0)
            def _queries():
                plgpu.set_max_registers(240, action="increase")

                def chunk(i, where, q_s, k_s, beta_s, marks_s):
                    b, h, n, tokens = where

                    def block(sums, do_s, d_s, dv_s, s_s, ds_s):
                        dp, dq = (None, None) if sums is None else sums
                        dp = add(dp, square, (do_s, d_s.T))
                        return dp, add(dq, (CHUNK, key_size), (do_s, s_s))

                    dp, dq = each_block(i, block)
                    beta = columns(load_row(beta_s, 1))
                    dp = jnp.where(lower_mask(marks_s, strict=False), scale * beta * dp, 0.0)
                    minus_dp_s[...] = (-dp).astype(dtype)
                    plgpu.commit_smem()
                    exchange()
                    dq = scale * dq
                    if marks is not None:
                        dq = only(dq, marks_s, 0)
                    dq = add_matmul(dq, (dp.astype(dtype), k_s))
                    exchange()
                    q_s[...] = dq.astype(dtype)
                    plgpu.commit_smem()
                    plgpu.copy_smem_to_gmem(q_s, dq_ref.at[b, tokens, h])

                each_chunk(chunk)
                plgpu.wait_smem_to_gmem(0)

            @pl.when(wg == 1)
            def _keys():
                plgpu.set_max_registers(240, action="increase")

                def chunk(i, where, q_s, k_s, beta_s, marks_s):
                    b, h, n, tokens = where
                    factor = rows(-scale * load_row(beta_s, 0), BLOCK_V)

                    def block(sums, do_s, d_s, dv_s, s_s, ds_s):
                        m, dk = (None, None) if sums is None else sums
                        m = add(m, square, (dv_s, d_s.T))
                        dv, minus_u = dv_s, factor * load(d_s)
                        if marks is not None:
                            dv = only(load(dv_s), marks_s, 0).astype(dtype)
                            minus_u = only(minus_u, marks_s, 1)
                        pairs = (dv, s_s), (minus_u.astype(dtype), ds_s)
                        return m, add(dk, (CHUNK, key_size), *pairs)

                    m, dk = each_block(i, block)
                    beta = columns(load_row(beta_s, 1))
                    m = jnp.where(lower_mask(marks_s, strict=True), beta * m, 0.0).astype(dtype)
                    m_s[...] = m
                    plgpu.commit_smem()
                    exchange()
                    dk = add_matmul(dk, (m, k_s), (m_s.T, k_s), (minus_dp_s.T, q_s))
                    exchange()
                    k_s[...] = (-dk).astype(dtype)
                    plgpu.commit_smem()
                    plgpu.copy_smem_to_gmem(k_s, dk_ref.at[b, tokens, h])

                each_chunk(chunk)
                plgpu.wait_smem_to_gmem(0)

            @pl.when(wg == 2)
            def _load():
                plgpu.set_max_registers(24, action="decrease")

                @pl.loop(0, count)
                def _(i):
                    b, h, n, tokens = place(i)
                    slot = lax.rem(i, jnp.int32(stages))

                    @pl.when(i >= stages)
                    def _():
                        plgpu.barrier_wait(keys_empty.at[slot])

                    sources = [
                        q_ref.at[b, tokens, h],
                        k_ref.at[b, tokens, h],
                        beta_ref.at[b, h, tokens],
                        None if marks is None else marks_ref.at[b, n],
                    ]
                    for source, tile in zip(sources, keys, strict=True):
                        if tile is not None:
                            plgpu.copy_gmem_to_smem(source, tile.at[slot], keys_full.at[slot])
                    for block in range(blocks):
                        stage = stage_of(i, block)

                        @pl.when(i * blocks + block >= stages)
                        def _(stage=stage):
                            plgpu.barrier_wait(values_empty.at[stage])

                        inside = pl.ds(block * BLOCK_V, BLOCK_V)
                        sources = [ref.at[b, tokens, h, inside] for ref in (do_ref, d_ref, dv_ref)]
                        sources += [ref.at[b, h, n, inside] for ref in (s_ref, ds_ref)]
                        for source, tile in zip(sources, values, strict=True):
                            plgpu.copy_gmem_to_smem(source, tile.at[stage], values_full.at[stage])

        keys_tile = smem((stages, CHUNK, key_size), dtype)
        values_tile = smem((stages, CHUNK, BLOCK_V), dtype)
        state_tile = smem((stages, BLOCK_V, key_size), dtype)
        marks_tile = None if marks is None else plgpu.SMEM((stages, 4, CHUNK), jnp.float32)
        pl.run_scoped(
            scoped,
            [keys_tile, keys_tile, plgpu.SMEM((stages, CHUNK), jnp.float32), marks_tile],
            [values_tile] * 3 + [state_tile] * 2,
            smem(square, dtype),
            smem(square, dtype),
            plgpu.Barrier(num_arrivals=3 + (marks is not None), num_barriers=stages),
            plgpu.Barrier(num_arrivals=2, num_barriers=stages),
            plgpu.Barrier(num_arrivals=5, num_barriers=stages),
            plgpu.Barrier(num_arrivals=2, num_barriers=stages),
            plgpu.Barrier(num_arrivals=2),
            collective_axes="wg",
        )

    return plgpu.kernel(
        kernel,
        out_type=(jax.ShapeDtypeStruct(q.shape, dtype), jax.ShapeDtypeStruct(k.shape, dtype)),
        grid=(programs,),
        grid_names=("program",),
        num_threads=3,
        thread_name="wg",
    )(q, k, beta, do, d, dv, states, dstates, *(() if marks is None else (marks,)))
