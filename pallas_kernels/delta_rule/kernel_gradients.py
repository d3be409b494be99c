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

With a decay (kernel_decay.py) there are also a token's shares in its gradient (README.md, eq. 33):
row sums of what is in registers anyway, but that the terms of dK are then added up apart, in
twice the registers.
"""

import jax
import jax.experimental.pallas as pl
import jax.experimental.pallas.mosaic_gpu as plgpu
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from pallas_kernels.delta_rule.kernel_decay import Decays
from pallas_kernels.delta_rule.kernel_prepare import (
    CHUNK,
    WGMMA,
    add_matmul,
    add_matmuls,
    decay_between,
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
    both = 2 * (keys + values) + 2 * tile + 8192  # beta, marks, decays
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
    decays: Decays | None = None,
    *,
    scale: float,
) -> tuple[Float[Array, "B T H K"], Float[Array, "B T H K"], Float[Array, "B H N 4 C"] | None]:
    """dQ and dK in the inputs' dtype, and what `kernel_decay.log_decay_gradient` takes, if decays.

    `marks`: `segment_marks`, if rows have segments. `decays`: if states decay; then K <= 128.
    """
    batch, heads, chunks, value_size, key_size = states.shape
    dtype = q.dtype
    total = batch * heads * chunks
    programs = min(PROGRAMS, total)
    blocks = value_size // BLOCK_V
    stages = _stages(key_size)
    square = (CHUNK, CHUNK)
    seen = {} if marks is None else {"marks": marks}
    if decays is not None:
        seen |= {"decays": decays.rows, "sums": decays.sums}

    def kernel(*refs):
        q_ref, k_ref, beta_ref, do_ref, d_ref, dv_ref, s_ref, ds_ref = refs[:8]
        seen_refs = dict(zip(seen, refs[8:], strict=False))
        dq_ref, dk_ref, *rest = refs[8 + len(seen) :]
        shares_ref = rest[0] if rest else None
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

        def only(x, seen_s, mark):
            """Rows of x times decays, zeros where tokens lack the mark (0 reads, 1 writes)."""
            if "decays" in seen_s:
                x = rows(load_row(seen_s["decays"].at[mark], 0), x.shape[1]) * x
            if "marks" not in seen_s:
                return x
            return jnp.where(rows(load_row(seen_s["marks"].at[mark], 0), x.shape[1]) > 0, x, 0.0)

        def decayed(x, seen_s):
            """x, of two tokens each, times the decay between them."""
            return x * decay_between(seen_s["sums"]) if "sums" in seen_s else x

        def row_sums(x, ref):
            """Of x * ref, 64 columns of `ref` at a time: registers. x: columns -> values."""
            blocks = [pl.ds(j, 64) for j in range(0, ref.shape[1], 64)]
            return sum(jnp.sum(x(block) * load(ref.at[:, block]), axis=1) for block in blocks)

        def products(x, ref):
            """Row sums of x * ref; x in registers."""
            return row_sums(lambda at: x[:, at.start : at.start + at.size], ref)

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
                    q_s, k_s, beta_s, *rest = (x.at[slot] for x in keys)
                    body(i, place(i), q_s, k_s, beta_s, dict(zip(seen, rest, strict=True)))
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

                def chunk(i, where, q_s, k_s, beta_s, seen_s):
                    b, h, n, tokens = where

                    def block(sums, do_s, d_s, dv_s, s_s, ds_s):
                        dp, dq, *kept = (None, None) if sums is None else sums
                        dp = add(dp, square, (do_s, d_s.T))
                        if decays is not None:
                            more = row_sums(lambda at: load(s_s.at[:, at]), ds_s)
                            kept = [kept[0] + more if kept else more]
                        return dp, add(dq, (CHUNK, key_size), (do_s, s_s)), *kept

                    dp, dq, *kept = each_block(i, block)
                    beta = columns(load_row(beta_s, 1))
                    below = lower_mask(seen_s.get("marks"), strict=False)
                    dp = jnp.where(below, decayed(scale * beta * dp, seen_s), 0.0)
                    minus_dp_s[...] = (-dp).astype(dtype)
                    plgpu.commit_smem()
                    exchange()
                    dq = scale * dq
                    if seen:
                        dq = only(dq, seen_s, 0)
                    dq = add_matmul(dq, (dp.astype(dtype), k_s))
                    if decays is not None:
                        shares_ref[b, h, n, 0] = products(dq, q_s)
                        shares_ref[b, h, n, 3] = scale * kept[0]
                    exchange()
                    q_s[...] = dq.astype(dtype)
                    plgpu.commit_smem()
                    plgpu.copy_smem_to_gmem(q_s, dq_ref.at[b, tokens, h])

                each_chunk(chunk)
                plgpu.wait_smem_to_gmem(0)

            @pl.when(wg == 1)
            def _keys():
                plgpu.set_max_registers(240, action="increase")

                def chunk(i, where, q_s, k_s, beta_s, seen_s):
                    b, h, n, tokens = where
                    factor = rows(-scale * load_row(beta_s, 0), BLOCK_V)
                    wide = (CHUNK, key_size)

                    def block(sums, do_s, d_s, dv_s, s_s, ds_s):
                        m, dk, *written = (None, None) if sums is None else sums
                        m = add(m, square, (dv_s, d_s.T))
                        dv, minus_u = dv_s, factor * load(d_s)
                        if seen:
                            dv = only(load(dv_s), seen_s, 0).astype(dtype)
                            minus_u = only(minus_u, seen_s, 1)
                        pairs = (dv, s_s), (minus_u.astype(dtype), ds_s)
                        if decays is None:
                            return m, add(dk, wide, *pairs)
                        read, write = pairs
                        return m, add(dk, wide, read), add(*(written or [None]), wide, write)

                    m, dk, *written = each_block(i, block)
                    beta = columns(load_row(beta_s, 1))
                    below = lower_mask(seen_s.get("marks"), strict=True)
                    m = jnp.where(below, decayed(beta * m, seen_s), 0.0).astype(dtype)
                    m_s[...] = m
                    plgpu.commit_smem()
                    exchange()
                    read, *writes = (m, k_s), (m_s.T, k_s), (minus_dp_s.T, q_s)
                    if decays is None:
                        dk = add_matmul(dk, read, *writes)
                    else:
                        shares_ref[b, h, n, 2] = -products(*written, k_s)
                        dk, written = add_matmuls((dk, read), (*written, *writes))
                        shares_ref[b, h, n, 1] = products(written - dk, k_s)
                        dk = dk + written
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
                    ]
                    for name, ref in seen_refs.items():
                        sources.append(ref.at[b, n] if name == "marks" else ref.at[b, h, n])
                    for source, tile in zip(sources, keys, strict=True):
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
        seen_tiles = [plgpu.SMEM((stages, *x.shape[-2:]), jnp.float32) for x in seen.values()]
        pl.run_scoped(
            scoped,
            [keys_tile, keys_tile, plgpu.SMEM((stages, CHUNK), jnp.float32), *seen_tiles],
            [values_tile] * 3 + [state_tile] * 2,
            smem(square, dtype),
            smem(square, dtype),
            plgpu.Barrier(num_arrivals=3 + len(seen), num_barriers=stages),
            plgpu.Barrier(num_arrivals=2, num_barriers=stages),
            plgpu.Barrier(num_arrivals=5, num_barriers=stages),
            plgpu.Barrier(num_arrivals=2, num_barriers=stages),
            plgpu.Barrier(num_arrivals=2),
            collective_axes="wg",
        )

    out_type = [jax.ShapeDtypeStruct(x.shape, dtype) for x in (q, k)]
    if decays is not None:
        out_type.append(jax.ShapeDtypeStruct(decays.rows.shape, jnp.float32))
    dq, dk, *shares = plgpu.kernel(
        kernel,
        out_type=tuple(out_type),
        grid=(programs,),
        grid_names=("program",),
        num_threads=3,
        thread_name="wg",
    )(q, k, beta, do, d, dv, states, dstates, *seen.values())
    return dq, dk, *(shares or [None])
