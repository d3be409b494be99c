# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Mosaic GPU kernel of the whole backward pass for many heads: reverse pass and gradients in one.

Per chunk, with B = diag(beta) and everything over `scale`:

    dU = P^T dO + K dS'     dX = dU - N^T (B dU)     dV = B dX     dbeta = rowsum(dX * D)
    dS = dS' + Q^T dO - K^T dV
    dP = tril(dO D^T) B     M = -stril(dV D^T) B
    dQ = dO S^T + dP K      dK = -dV S^T + B D dS'^T + (M + M^T) K + dP^T Q

A program a multiprocessor goes through heads, and a head's chunks from the last to the first, with
four warpgroups:

    0, 1     the serial pass, transposed, 64 value rows each: dS^T in registers. What the others
             need of it, dV and dS' in 16 bits, they leave in shared memory.
    QUERIES  dP and dQ, which do not wait for the serial pass; issues all loads.
    KEYS     M and dK.

Tensor cores only add: dK's terms are summed with the other sign, where each sign falls to an
operand that passes through registers, and so does `scale`. Shared memory is full: dP and M take the
tiles' places, dQ and dK leave from where dO and the tiles were, and D, the state, dS', dV and Q
have one place each. So are registers, which is why addresses are made anew in every step, barriers
are in few groups and some operands take turns: with a few more alive, the compiler gives up
running tensor cores beside anything else (ptxas, C7512).
"""

import jax
import jax.experimental.pallas as pl
import jax.experimental.pallas.mosaic_gpu as plgpu
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from pallas_kernels.delta_rule import kernel_prepare
from pallas_kernels.delta_rule.kernel_prepare import CHUNK, WGMMA, Tiles, add_matmul, matmul, smem
from pallas_kernels.delta_rule.kernel_support import FEW_HEADS
from pallas_kernels.delta_rule.kernel_tiles import (
    SUMS_ROWS,
    column_sums,
    load_transposed,
    lower,
    split,
    store_transposed,
)

SIZE = 128  # of keys and of values
BLOCK_V = 64
SERIAL = 2  # warpgroups of the serial pass
QUERIES, KEYS = SERIAL, SERIAL + 1
STAGES = 2
PROGRAMS = 132  # multiprocessors of an H100 or H200; any number is right
SQUARE = (CHUNK, CHUNK)
REGISTERS = (152, 96, 112)  # of the serial warpgroups, of QUERIES, of KEYS; 512 in all


def _columns(x, shape):
    return lax.broadcast_in_dim(x, shape, (1,))


def _rows(x, shape):
    return lax.broadcast_in_dim(x, shape, (0,))


def _load(ref, layout=WGMMA):
    return plgpu.load(ref, layout=layout, optimized=False)


def takes(q, do, marks, decays) -> bool:
    """Whether the backward pass is this kernel's: a program for every head, and enough of them.

    Its results have the bits of kernel_passes.py's and kernel_gradients.py's.
    """
    sizes = q.shape[-1] == do.shape[-1] == SIZE
    many = q.shape[0] * q.shape[2] > FEW_HEADS
    return sizes and many and marks is None and decays is None


class _Barriers:
    """Some of a group of barriers. Groups are few because each costs a register."""

    def __init__(self, group, first):
        self.group, self.first, self.at = group, first, self

    def __getitem__(self, index):
        return self.group.at[self.first + index]


def _set_registers(count):
    """512 threads start with 128 registers each."""
    plgpu.set_max_registers(count, action="increase" if count > 128 else "decrease")


def backward(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B T H K"],
    do: Float[Array, "B T H V"],
    beta: Float[Array, "B H T2"],
    d: Float[Array, "B T H V"],
    states: Float[Array, "B H N V K"],
    tiles: Tiles,
    dfinal_state: Float[Array, "B H K V"],
    *,
    scale: float,
) -> tuple[
    Float[Array, "B T H K"],
    Float[Array, "B T H K"],
    Float[Array, "B T H V"],
    Float[Array, "B H T2"],
    Float[Array, "B H K V"],
]:
    """dQ, dK, dV in the inputs' dtype, dbeta in float32, and the initial state's cotangent.

    Args:
        q, k, do: bfloat16 or float16; K = V = 128, T a multiple of 8.
        beta: float32, padded with zeros to whole chunks.
        d: prediction errors; states: what enters each chunk, transposed; tiles: (-N)^T and P.
        dfinal_state: float32.
    """
    batch, _, heads, key_size = q.shape
    chunks = beta.shape[-1] // CHUNK
    dtype = q.dtype
    programs = min(PROGRAMS, batch * heads)
    in_parts = kernel_prepare.SPLIT_REVERSE
    corrections = [tiles.correction, tiles.remainder] if in_parts else [tiles.correction]
    if key_size != SIZE or do.shape[-1] != SIZE:
        raise ValueError(f"K and V must be {SIZE}, got {key_size} and {do.shape[-1]}")

    def kernel(*refs):
        q_ref, k_ref, do_ref, beta_ref, d_ref, states_ref, carry_ref, scores_ref = refs[:8]
        *correction_refs, dq_ref, dk_ref, dv_ref, dbeta_ref, carry_out_ref = refs[8:]
        program, wg = lax.axis_index("program"), lax.axis_index("wg")
        count = lax.div(batch * heads - program + programs - 1, jnp.int32(programs))
        steps = count * chunks

        def place(i):
            """Batch entry, head, chunk and tokens of this program's step i."""
            index = program + lax.div(i, jnp.int32(chunks)) * programs
            n = chunks - 1 - lax.rem(i, jnp.int32(chunks))
            b, h = lax.div(index, jnp.int32(heads)), lax.rem(index, jnp.int32(heads))
            return b, h, n, pl.ds(n * CHUNK, CHUNK)

        def scoped(streams, singles, rows, loaded, once, twice):
            k_s, do_s, scores_s, correction_s, remainder_s = streams
            dp_full, freed, correction_freed = (_Barriers(once, STAGES * j) for j in range(3))
            loaded_q, loaded_d, loaded_state, d_freed, state_freed, dv_freed, dstate_freed = (
                once.at[STAGES * 3 + j] for j in range(7)
            )
            scores_read, serial_done = (_Barriers(twice, STAGES * j) for j in range(2))
            loaded_correction = _Barriers(
                *((twice, 2 * STAGES) if in_parts else (once, 3 * STAGES + 7))
            )
            dv_full, dstate_full = (twice.at[STAGES * 3 + j] for j in range(2))

            halves = [(j, pl.ds(j * BLOCK_V, BLOCK_V)) for j in range(SERIAL)]

            def single(i):
                """The tiles without stages, at an address that is made anew in every step."""
                zero = (i.astype(jnp.float32) * 1e-9).astype(jnp.int32)
                return [tile.at[zero] for tile in singles]

            def slot(i):
                return lax.rem(i, jnp.int32(STAGES))

            def load_beta(i, axis):
                return _load(rows.at[slot(i)], WGMMA.reduce(axis))

            def load_stream(i):
                """What step i needs first."""
                at = slot(i)
                b, h, n, tokens = place(i)
                for source, tile in (
                    (k_ref.at[b, tokens, h], k_s),
                    (do_ref.at[b, tokens, h], do_s),
                    (scores_ref.at[b, h, n], scores_s),
                    (beta_ref.at[b, h, tokens], rows),
                ):
                    plgpu.copy_gmem_to_smem(source, tile.at[at], loaded.at[at])

            def load_correction(i):
                at = slot(i)
                b, h, n, _ = place(i)
                for ref, tile in zip(correction_refs, (correction_s, remainder_s), strict=False):
                    plgpu.copy_gmem_to_smem(ref.at[b, h, n], tile.at[at], loaded_correction.at[at])

            def load_q(i):
                b, h, _, tokens = place(i)
                plgpu.copy_gmem_to_smem(q_ref.at[b, tokens, h], singles[4].at[0], loaded_q)

            def load_d(i):
                b, h, _, tokens = place(i)
                plgpu.copy_gmem_to_smem(d_ref.at[b, tokens, h], singles[0].at[0], loaded_d)

            def load_state(i):
                b, h, n, _ = place(i)
                plgpu.copy_gmem_to_smem(states_ref.at[b, h, n], singles[1].at[0], loaded_state)

            @pl.when(wg < SERIAL)
            def _serial():
                _set_registers(REGISTERS[0])
                inside = pl.ds(wg * BLOCK_V, BLOCK_V)
                shape = (BLOCK_V, CHUNK)

                def share(i, carry):
                    single(i)[2][inside] = carry.astype(dtype)
                    plgpu.commit_smem()
                    plgpu.barrier_arrive(dstate_full)

                def step(i, carry):
                    at = slot(i)
                    b, h, n, tokens = place(i)
                    d_s, _, dstate_s, dv_s, q_s = single(i)
                    do_t = do_s.at[at, :, inside].T
                    plgpu.barrier_wait(loaded.at[at])

                    def cotangent(acc):
                        plgpu.wgmma(acc, dstate_s.at[inside], k_s.at[at].T)
                        for j, keys in halves if kernel_prepare.SPLIT_COTANGENT else ():
                            _, rest = split(carry[:, j * BLOCK_V : (j + 1) * BLOCK_V], dtype)
                            plgpu.wgmma(acc, rest, k_s.at[at, :, keys].T)
                            plgpu.wgmma_wait(0)  # one such operand at a time: registers
                        plgpu.wgmma(acc, do_t, scores_s.at[at])
                        return acc[...]

                    du = pl.run_scoped(cotangent, plgpu.ACC(shape, jnp.float32))
                    plgpu.barrier_arrive(scores_read.at[at])
                    weighted = du * _columns(load_beta(i, 0), shape)
                    plgpu.wait_smem_to_gmem(0, wait_read_only=True)

                    @pl.when(i > 0)
                    def _():
                        plgpu.barrier_wait(dv_freed)

                    correction = correction_s.at[at].T
                    if in_parts:
                        # The rest goes through where dV will be: registers.
                        rounded, rest = split(weighted, dtype)
                        dv_s.at[wg].T[...] = rest
                        plgpu.commit_smem()
                        pairs = (rounded, correction), (rounded, remainder_s.at[at].T)
                        pairs += ((dv_s.at[wg].T, correction),)
                    else:
                        pairs = ((weighted.astype(dtype), correction),)
                    plgpu.barrier_wait(loaded_correction.at[at])
                    dx = add_matmul(du, *pairs)
                    dv = dx * _columns(load_beta(i, 0), shape)
                    dv_s.at[wg].T[...] = (scale * dv).astype(dtype)
                    plgpu.commit_smem()
                    plgpu.barrier_arrive(dv_full)
                    plgpu.copy_smem_to_gmem(dv_s.at[wg], dv_ref.at[b, tokens, h, inside])
                    plgpu.barrier_wait(loaded_q)
                    plgpu.barrier_wait(loaded_d)
                    minus_dv = (-dv).astype(dtype)

                    def advance(acc):
                        plgpu.wgmma(acc, do_t, q_s)
                        plgpu.wgmma(acc, minus_dv, k_s.at[at])
                        error = _load(d_s.at[:, inside].T).astype(jnp.float32)
                        sums = rows.at[pl.ds(STAGES + wg * SUMS_ROWS, SUMS_ROWS)]
                        dbeta_ref[wg, b, h, tokens] = column_sums(scale * dx * error, sums)

                    carry = pl.run_state(advance)(plgpu.ACC.init(carry))
                    plgpu.barrier_arrive(serial_done.at[at])
                    plgpu.barrier_wait(dstate_freed)

                    @pl.when(n > 0)
                    def _():
                        share(i, carry)

                    return carry

                @pl.loop(0, count)
                def _(head):
                    first = head * chunks
                    b, h, *_ = place(first)
                    carry = load_transposed(carry_ref.at[b, h, :, inside], over=scale)
                    share(first, carry)
                    carry = lax.fori_loop(first, first + chunks, step, carry)
                    store_transposed(carry_out_ref.at[b, h, :, inside], carry, times=scale)

                plgpu.wait_smem_to_gmem(0)

            @pl.when(wg == QUERIES)
            def _queries():
                _set_registers(REGISTERS[1])
                first, second = jnp.int32(0), jnp.int32(1)
                for load in (load_stream, load_correction, load_d, load_state, load_q):
                    load(first)

                @pl.when(steps > 1)
                def _():
                    load_stream(second)
                    load_correction(second)

                @pl.loop(0, steps)
                def _(i):
                    at = slot(i)
                    d_s, state_s, *_ = single(i)
                    plgpu.barrier_wait(loaded.at[at])
                    plgpu.barrier_wait(loaded_d)
                    dp = matmul(SQUARE, (do_s.at[at], d_s.T))
                    dp = lower(dp) * _columns(-scale * load_beta(i, 0), SQUARE)
                    plgpu.barrier_wait(scores_read.at[at])
                    scores_s[at] = dp.astype(dtype)
                    plgpu.commit_smem()
                    plgpu.barrier_arrive(dp_full.at[at])

                    @pl.when(i > 0)
                    def _():
                        plgpu.wait_smem_to_gmem(0, wait_read_only=True)
                        plgpu.barrier_wait(freed.at[slot(i + 1)])
                        load_q(i)

                        @pl.when(i < steps - 1)
                        def _():
                            load_stream(i + 1)

                    plgpu.barrier_wait(loaded_state)
                    minus_dq = -scale * matmul((CHUNK, SIZE), (do_s.at[at], state_s))
                    minus_dq = add_matmul(minus_dq, (scores_s.at[at], k_s.at[at]))

                    @pl.when((i > 0) & (i < steps - 1))
                    def _():
                        plgpu.barrier_wait(correction_freed.at[slot(i + 1)])
                        load_correction(i + 1)

                    plgpu.barrier_wait(serial_done.at[at])

                    @pl.when(i < steps - 1)
                    def _():
                        plgpu.barrier_wait(d_freed)
                        load_d(i + 1)
                        plgpu.barrier_wait(state_freed)
                        load_state(i + 1)

                    do_s[at] = (-minus_dq).astype(dtype)
                    plgpu.commit_smem()
                    b, h, _, tokens = place(i)
                    plgpu.copy_smem_to_gmem(do_s.at[at], dq_ref.at[b, tokens, h])

                plgpu.wait_smem_to_gmem(0)

            @pl.when(wg == KEYS)
            def _keys():
                _set_registers(REGISTERS[2])

                @pl.loop(0, steps)
                def _(i):
                    at = slot(i)
                    m_s = correction_s.at[at]
                    d_s, state_s, dstate_s, dv_s, q_s = single(i)
                    plgpu.barrier_wait(loaded.at[at])
                    plgpu.barrier_wait(loaded_d)
                    plgpu.barrier_wait(dv_full)
                    m = matmul(SQUARE, *((dv_s.at[j], d_s.at[:, block].T) for j, block in halves))
                    m = lower(m, strictly=True) * _columns(load_beta(i, 0), SQUARE)
                    m_s[...] = m.astype(dtype)

                    @pl.when(i > 0)
                    def _():
                        plgpu.wait_smem_to_gmem(0, wait_read_only=True)
                        plgpu.barrier_arrive(correction_freed.at[slot(i + 1)])

                    plgpu.commit_smem()
                    plgpu.barrier_wait(dstate_full)
                    plgpu.barrier_wait(loaded_state)

                    def minus_dk(acc):
                        minus_beta = _rows(-scale * load_beta(i, 1), (CHUNK, BLOCK_V))
                        for j, block in halves:
                            plgpu.wgmma(acc, dv_s.at[j], state_s.at[block])
                            minus_u = minus_beta * _load(d_s.at[:, block]).astype(jnp.float32)
                            plgpu.wgmma(acc, minus_u.astype(dtype), dstate_s.at[block])
                            plgpu.wgmma_wait(0)  # one such operand at a time: registers
                        for barrier in (dstate_freed, d_freed, dv_freed, state_freed):
                            plgpu.barrier_arrive(barrier)
                        plgpu.wgmma(acc, m_s, k_s.at[at])
                        plgpu.wgmma(acc, m_s.T, k_s.at[at])
                        plgpu.barrier_wait(loaded_q)
                        plgpu.barrier_wait(dp_full.at[at])
                        plgpu.wgmma(acc, scores_s.at[at].T, q_s)
                        return acc[...]

                    dk = -pl.run_scoped(minus_dk, plgpu.ACC((CHUNK, SIZE), jnp.float32))
                    plgpu.barrier_arrive(freed.at[at])
                    plgpu.commit_smem()  # a barrier: each warp has read all of M, M^T
                    stagings = m_s, remainder_s.at[at]
                    for (j, _), staging in zip(halves, stagings, strict=True):
                        staging[...] = dk[:, j * BLOCK_V : (j + 1) * BLOCK_V].astype(dtype)
                    plgpu.commit_smem()
                    b, h, _, tokens = place(i)
                    for (_, keys), staging in zip(halves, stagings, strict=True):
                        plgpu.copy_smem_to_gmem(staging, dk_ref.at[b, tokens, h, keys])

                plgpu.wait_smem_to_gmem(0)

        rows = smem((STAGES, CHUNK, SIZE), dtype)
        squares = smem((STAGES, *SQUARE), dtype)
        pl.run_scoped(
            scoped,
            [rows] * 2 + [squares] * 3,
            [
                smem((1, CHUNK, SIZE), dtype),
                smem((1, SIZE, SIZE), dtype),
                smem((1, SIZE, SIZE), dtype),
                smem((1, SERIAL, CHUNK, BLOCK_V), dtype),
                smem((1, CHUNK, SIZE), dtype),
            ],
            plgpu.SMEM((STAGES + SERIAL * SUMS_ROWS, CHUNK), jnp.float32),
            plgpu.Barrier(num_arrivals=4, num_barriers=STAGES),
            plgpu.Barrier(num_arrivals=1, num_barriers=4 * STAGES + 7),
            plgpu.Barrier(num_arrivals=SERIAL, num_barriers=3 * STAGES + 2),
            collective_axes="wg",
        )

    dq, dk, dv, dbeta, carry = plgpu.kernel(
        kernel,
        out_type=(
            jax.ShapeDtypeStruct(q.shape, dtype),
            jax.ShapeDtypeStruct(k.shape, dtype),
            jax.ShapeDtypeStruct(do.shape, dtype),
            jax.ShapeDtypeStruct((SERIAL, *beta.shape), jnp.float32),
            jax.ShapeDtypeStruct(dfinal_state.shape, jnp.float32),
        ),
        grid=(programs,),
        grid_names=("program",),
        num_threads=SERIAL + 2,
        thread_name="wg",
        compiler_params=plgpu.CompilerParams(reduction_scratch_bytes=0),
    )(q, k, do, beta, d, states, dfinal_state, tiles.scores, *corrections)
    return dq, dk, dv, dbeta[0] + dbeta[1], carry
