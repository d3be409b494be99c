# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The engine of the serial passes: a Mosaic GPU kernel that walks the chunks of every head.

Grid [V / (64 W), H, B]; a program owns W blocks of 64 value columns of one head, one consumer
warpgroup each, and walks the chunks; one more warpgroup loads; another may make the chunks' tiles
on the way. Loop-carried: S^T or dS^T, [64, K] float32 a warpgroup. What a pass does with a chunk is
kernel_passes.py's business.
"""

import math

import jax
import jax.experimental.pallas as pl
import jax.experimental.pallas.mosaic_gpu as plgpu
import jax.numpy as jnp
from jax import lax

from pallas_kernels._common import chunking
from pallas_kernels.delta_rule import kernel_correction
from pallas_kernels.delta_rule.kernel_prepare import CHUNK, beta_row, make_tiles, smem
from pallas_kernels.delta_rule.kernel_ptx import column_sums
from pallas_kernels.delta_rule.kernel_tiles import load_transposed, store_transposed

BLOCK_V = 64
MADE_STAGES = 2
# Shared memory of a program: the card's, less what barriers take. Arrays take whole KiB.
SHARED_BYTES = 232448 - 128
SUMS = 4  # rows of `column_sums`, one a warp


def shared_bytes(operands, out_types, warpgroups, stages, made) -> int:
    """Shared memory of `serial_kernel` with these arguments; `made`: names of tiles it makes."""
    block = warpgroups * BLOCK_V

    def loaded(x, kind):
        if kind in ("row", "marks", "rows"):
            return (1 if kind == "row" else x.shape[-2]) * CHUNK * x.dtype.itemsize
        return CHUNK * (block if kind == "values" else x.shape[-1]) * x.dtype.itemsize

    def staged(x, kind):
        size = {"states": x.shape[-1], "values": CHUNK}.get(kind, 0)
        return size * BLOCK_V * x.dtype.itemsize

    arrays = [stages * loaded(*x) for x in operands.values()]
    arrays += [warpgroups * staged(*x) for x in out_types.values()]
    arrays += [MADE_STAGES * 2 * CHUNK**2] * len(made)
    arrays += [2 * math.prod(kernel_correction.SCRATCH_SHAPE)] if made else []
    return sum(-(-size // 1024) * 1024 for size in arrays)


def _chunks(operands) -> int:
    return chunking.num_chunks(operands["k"][0].shape[1], CHUNK)


def plan(operands, out_types, warpgroups, made=()) -> tuple[int, int] | None:
    """(warpgroups, stages) of a program: the first choice that shared memory holds, or None.

    Args:
        warpgroups: at most.
        made: names of tiles that are made on the way: by one maker, a stage ahead.
    """
    chunks = _chunks(operands)
    stores_states = any(kind == "states" for _, kind in out_types.values())
    # A third stage hides the maker's latency; elsewhere it was measured to cost.
    if made:
        choices = [(stages, warpgroups) for stages in ((2,) if stores_states else (3, 2))]
    else:
        choices = [(stages, w) for stages in (2, 1) for w in range(warpgroups, 0, -1)]
    for stages, count in choices:
        if shared_bytes(operands, out_types, count, stages, made) <= SHARED_BYTES:
            return count, min(stages, chunks)
    return None


def serial_kernel(
    body, operands, carry_in, out_types, *, warpgroups, reverse=False, made=(), unit=1.0
):
    """Runs `body` over the chunks of every head, carrying a [V, K] matrix.

    Args:
        body: (tiles, carry [64, K] float32, value slice, store) -> carry; `tiles` maps names to
            shared-memory refs, store(name, array[, columns]) stores one of `out_types`.
        operands: name -> (array, kind); kind "keys" for [B, T, H, K], "values" for
            [B, T, H, V], "tiles" for [B, H, N, C, C], "row" for [B, H, T2], "marks" for
            [B, N, 4, C], "rows" for [B, H, N, R, C].
        carry_in: [B, H, K, V] float32.
        out_types: name -> (ShapeDtypeStruct, kind); kind "values" (the body's array is [64, C] and
            is stored transposed), "states" ([B, H, N, V, K]), "sums" ([B, H, V / 16, T2]; the
            body's array is [64, C] float32 and is summed over every 16 rows) or "tiles".
        warpgroups: consumers a program at most.
        made: names of tiles that one more warpgroup makes, one chunk ahead of `body`; those among
            `out_types` are stored.
        unit: what is carried is `carry_in` over this.
    Returns:
        (name -> output, final carry [B, H, K, V] float32).
    """
    warpgroups, stages = plan(operands, out_types, warpgroups, made)
    make = bool(made)
    carry_type = jax.ShapeDtypeStruct(carry_in.shape, jnp.float32)
    names = list(operands)
    batch, heads, key_size, value_size = carry_in.shape
    chunks = _chunks(operands)
    dtype = operands["k"][0].dtype
    block = warpgroups * BLOCK_V
    kinds = {name: kind for name, (_, kind) in out_types.items()}
    staged = [name for name, kind in kinds.items() if kind in ("values", "states")]

    def kernel(*refs):
        in_refs = dict(zip(names, refs, strict=False))
        carry_ref, *rest = refs[len(names) :]
        out_refs = dict(zip(out_types, rest, strict=False))
        carry_out_ref = rest[len(out_types)]
        b, h, g = (lax.axis_index(name) for name in "bhg")
        wg = lax.axis_index("wg")

        def chunk_of(i):
            return chunks - 1 - i if reverse else i

        def place(name, kind, i, values):
            """Where chunk i of operand or output `name` is."""
            n = chunk_of(i)
            tokens = pl.ds(n * CHUNK, CHUNK)
            ref = in_refs[name] if name in in_refs else out_refs[name]
            if kind == "row":
                return ref.at[b, h, tokens]
            if kind == "marks":
                return ref.at[b, n]
            if kind == "sums":
                first = lax.div(values.start, jnp.int32(BLOCK_V // SUMS))
                return ref.at[b, h, pl.ds(first, SUMS), tokens]
            if kind in ("tiles", "rows"):
                return ref.at[b, h, n]
            if kind == "states":
                return ref.at[b, h, n, values]
            return ref.at[b, tokens, h] if kind == "keys" else ref.at[b, tokens, h, values]

        def scoped(tiles, made_tiles, split_s, staging, *barriers):
            full, empty, *rest = barriers
            made_full, made_empty = rest or (None, None)

            @pl.when(wg < warpgroups)
            def _consume():
                plgpu.set_max_registers(192 if make else 240, action="increase")
                inside = pl.ds(wg * BLOCK_V, BLOCK_V)
                values = pl.ds(g * block + wg * BLOCK_V, BLOCK_V)
                carry = load_transposed(carry_ref.at[b, h, :, values], over=unit)

                def step(i, carry):
                    slot, made_slot = (lax.rem(i, jnp.int32(x)) for x in (stages, MADE_STAGES))
                    here = {name: ref.at[slot] for name, ref in tiles.items()}
                    plgpu.barrier_wait(full.at[slot])
                    if make:
                        here |= {name: ref.at[made_slot] for name, ref in made_tiles.items()}
                        plgpu.barrier_wait(made_full.at[made_slot])
                    waited = []

                    def store(name, x, columns=None):
                        kind = kinds[name]
                        if kind == "sums":
                            column_sums(x, place(name, kind, i, values))
                            return
                        if not waited:  # what the last step stored has left
                            waited.append(plgpu.wait_smem_to_gmem(0, wait_read_only=True))
                        ref = staging[name].at[wg]
                        ref = ref.T if kind == "values" else ref
                        ref = ref if columns is None else ref.at[:, columns]
                        ref[...] = x

                    carry = body(here, carry, inside, store)
                    plgpu.barrier_arrive(empty.at[slot])
                    if make:
                        plgpu.barrier_arrive(made_empty.at[made_slot])
                    if not staged:
                        return carry
                    plgpu.commit_smem()
                    for name in staged:
                        target = place(name, kinds[name], i, values)
                        plgpu.copy_smem_to_gmem(staging[name].at[wg], target)
                    return carry

                carry = lax.fori_loop(0, chunks, step, carry)
                store_transposed(carry_out_ref.at[b, h, :, values], carry, times=unit)
                plgpu.wait_smem_to_gmem(0)

            @pl.when(wg == warpgroups)
            def _load():
                plgpu.set_max_registers(24, action="decrease")

                def load(i, slot):
                    for name, (_, kind) in operands.items():
                        source = place(name, kind, i, pl.ds(g * block, block))
                        plgpu.copy_gmem_to_smem(source, tiles[name].at[slot], full.at[slot])

                for i in range(stages):
                    load(jnp.int32(i), i)

                @pl.loop(0, chunks - stages)
                def _(i):
                    slot = lax.rem(i, jnp.int32(stages))
                    plgpu.barrier_wait(empty.at[slot])
                    load(i + stages, slot)

            if not make:
                return

            @pl.when(wg == warpgroups + 1)
            def _make():
                plgpu.set_max_registers(104, action="decrease")

                @pl.loop(0, chunks)
                def _(i):
                    slot, made_slot = (lax.rem(i, jnp.int32(x)) for x in (stages, MADE_STAGES))
                    plgpu.barrier_wait(full.at[slot])

                    @pl.when(i >= MADE_STAGES)
                    def _():
                        plgpu.barrier_wait(made_empty.at[made_slot])

                    plgpu.wait_smem_to_gmem(0, wait_read_only=True)
                    here = {name: ref.at[slot] for name, ref in tiles.items()}
                    beta_C = beta_row(here)
                    out = {name: ref.at[made_slot] for name, ref in made_tiles.items()}
                    seen = here.get("marks"), here.get("sums")
                    make_tiles(here["q"], here["k"], beta_C, *seen, split_s, out)
                    plgpu.commit_smem()
                    plgpu.barrier_arrive(made_full.at[made_slot])

                    @pl.when(g == 0)
                    def _():
                        for name in made:
                            if name in kinds:
                                target = place(name, "tiles", i, None)
                                plgpu.copy_smem_to_gmem(made_tiles[name].at[made_slot], target)

                plgpu.wait_smem_to_gmem(0)

        def tile(x, kind):
            if kind in ("row", "marks", "rows"):
                rows = () if kind == "row" else x.shape[-2:-1]
                return plgpu.SMEM((stages, *rows, CHUNK), x.dtype)
            return smem((stages, CHUNK, block if kind == "values" else x.shape[-1]), x.dtype)

        def stage(x, kind):
            shape = (CHUNK, BLOCK_V) if kind == "values" else (BLOCK_V, key_size)
            return smem((warpgroups, *shape), x.dtype)

        barriers = [
            plgpu.Barrier(num_arrivals=len(operands), num_barriers=stages),
            plgpu.Barrier(num_arrivals=warpgroups, num_barriers=stages),
        ]
        if make:
            barriers += [
                plgpu.Barrier(num_arrivals=1, num_barriers=MADE_STAGES),
                plgpu.Barrier(num_arrivals=warpgroups, num_barriers=MADE_STAGES),
            ]
        pl.run_scoped(
            scoped,
            {name: tile(x, kind) for name, (x, kind) in operands.items()},
            {name: smem((MADE_STAGES, CHUNK, CHUNK), dtype) for name in made},
            kernel_correction.scratch() if make else None,
            {name: stage(*out_types[name]) for name in staged},
            *barriers,
            collective_axes="wg",
        )

    outputs = plgpu.kernel(
        kernel,
        out_type=(*(x for x, _ in out_types.values()), carry_type),
        grid=(value_size // block, heads, batch),
        grid_names=("g", "h", "b"),
        num_threads=warpgroups + 1 + make,
        thread_name="wg",
        compiler_params=plgpu.CompilerParams(reduction_scratch_bytes=0),
    )(*(x for x, _ in operands.values()), carry_in)
    return dict(zip(out_types, outputs, strict=False)), outputs[-1]
