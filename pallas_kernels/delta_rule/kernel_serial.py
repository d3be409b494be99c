# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Mosaic GPU kernels of the two serial passes: states forward, their cotangents in reverse.

Written transposed, a pass needs no shared memory of its own: a warpgroup keeps 64 value rows of
S^T (or dS^T) in its accumulators, and what one product yields is the next one's operand A, in
registers. All that streams through shared memory is operand B.

    forward    R^T = S^T K^T     X^T = (V^T - R^T) B     U^T = X^T Ti^T     S^T += U^T K
               O^T = scale (S^T Q^T + U^T P^T)
    reverse    dU^T = dO^T P + dS^T K^T     dX^T = dU^T Ti     dS^T += dO^T Q - (dX^T B) K

with B = diag(beta) and kernel_prepare.py's tiles: `inverse` is Ti^T, `scores` is P. The reverse
pass runs in units of `scale` (it sees O / scale): neither Q nor dO is ever multiplied by it.

Grid [V / (64 W), H, B]; a program owns W blocks of 64 value columns of one head, one consumer
warpgroup each, and walks the chunks; one more warpgroup loads. Loop-carried: S^T or dS^T,
[64, K] float32 a warpgroup.
"""

import jax
import jax.experimental.pallas as pl
import jax.experimental.pallas.mosaic_gpu as plgpu
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from pallas_kernels.delta_rule import kernel_inverse
from pallas_kernels.delta_rule.kernel_prepare import (
    CHUNK,
    WGMMA,
    add_matmul,
    chunk_scores,
    matmul,
    smem,
    store_chunk_inverse,
)

BLOCK_V = 64
MADE_STAGES = 2
# With fewer heads than this, programs are few and a chunk's latency is all: tiles come from
# `prepare` and every block of values gets its own program.
FEW_HEADS = 66


def _columns(x, shape):
    return lax.broadcast_in_dim(x, shape, (1,))


def _serial_kernel(body, operands, carry_in, out_types, *, warpgroups, reverse=False, make=False):
    """Runs `body` over the chunks of every head, carrying a [V, K] matrix.

    Args:
        body: (tiles, carry [64, K] float32, value slice) -> (outputs, carry); `tiles` maps names
            to shared-memory refs, `outputs` names to 16-bit arrays to store.
        operands: name -> (array, kind); kind "keys" for [B, T, H, K], "values" for
            [B, T, H, V], "tiles" for [B, H, N, C, C], "rows" for [B, H, T2].
        carry_in: [B, H, K, V] float32.
        out_types: name -> (ShapeDtypeStruct, kind); kind "values" (the body's array is [64, C] and
            is stored transposed), "states" ([B, H, N, V, K]), or "tiles": inverse and scores.
        make: one more warpgroup makes the tiles "inverse" and "scores", one chunk ahead of `body`.
    Returns:
        (name -> output, final carry [B, H, K, V] float32).
    """
    carry_in = jnp.swapaxes(carry_in, -1, -2)
    carry_type = jax.ShapeDtypeStruct(carry_in.shape, jnp.float32)
    names = list(operands)
    batch, heads, value_size, key_size = carry_in.shape
    chunks = operands["beta"][0].shape[-1] // CHUNK
    dtype = operands["k"][0].dtype
    block = warpgroups * BLOCK_V
    stored = {name: kind for name, (_, kind) in out_types.items() if kind != "tiles"}

    def width(x, kind):
        return block if kind == "values" else x.shape[-1]

    # A third stage hides the maker's latency, if it fits; elsewhere it was measured to cost.
    fits = "states" not in stored.values() and key_size < 256
    stages = min(3 if make and fits else 2, chunks)

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
            if kind == "rows":
                return ref.at[b, h, tokens]
            if kind == "tiles":
                return ref.at[b, h, n]
            if kind == "states":
                return ref.at[b, h, n, values]
            return ref.at[b, tokens, h] if kind == "keys" else ref.at[b, tokens, h, values]

        def scoped(tiles, made, split_s, staging, full, empty, made_full, made_empty):
            @pl.when(wg < warpgroups)
            def _consume():
                plgpu.set_max_registers(192 if make else 232, action="increase")
                inside = pl.ds(wg * BLOCK_V, BLOCK_V)
                values = pl.ds(g * block + wg * BLOCK_V, BLOCK_V)
                carry = plgpu.load(carry_ref.at[b, h, values], layout=WGMMA, optimized=False)

                def step(i, carry):
                    slot, made_slot = (lax.rem(i, jnp.int32(x)) for x in (stages, MADE_STAGES))
                    here = {name: ref.at[slot] for name, ref in tiles.items()}
                    plgpu.barrier_wait(full.at[slot])
                    if make:
                        here |= {name: ref.at[made_slot] for name, ref in made.items()}
                        plgpu.barrier_wait(made_full.at[made_slot])
                    outputs, carry = body(here, carry, inside)
                    plgpu.barrier_arrive(empty.at[slot])
                    if make:
                        plgpu.barrier_arrive(made_empty.at[made_slot])
                    if not stored:
                        return carry
                    plgpu.wait_smem_to_gmem(0, wait_read_only=True)
                    for name, kind in stored.items():
                        ref = staging[name].at[wg]
                        ref = ref.T if kind == "values" else ref
                        ref[...] = outputs[name]
                    plgpu.commit_smem()
                    for name, kind in stored.items():
                        plgpu.copy_smem_to_gmem(staging[name].at[wg], place(name, kind, i, values))
                    return carry

                carry = lax.fori_loop(0, chunks, step, carry)
                carry_out_ref[b, h, values] = carry
                plgpu.wait_smem_to_gmem(0)

            @pl.when(wg == warpgroups)
            def _load():
                plgpu.set_max_registers(24 if make else 40, action="decrease")

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
                    beta_C = plgpu.load(
                        tiles["beta"].at[slot], layout=WGMMA.reduce(1), optimized=False
                    )
                    q_s, k_s = tiles["q"].at[slot], tiles["k"].at[slot]

                    @pl.when(i >= MADE_STAGES)
                    def _():
                        plgpu.barrier_wait(made_empty.at[made_slot])

                    plgpu.wait_smem_to_gmem(0, wait_read_only=True)
                    made["scores"][made_slot] = chunk_scores(q_s, k_s).astype(dtype)
                    store_chunk_inverse(k_s, beta_C, split_s, made["inverse"].at[made_slot])
                    plgpu.commit_smem()
                    plgpu.barrier_arrive(made_full.at[made_slot])

                    @pl.when(g == 0)
                    def _():
                        for name, (_, kind) in out_types.items():
                            if kind == "tiles":
                                plgpu.copy_smem_to_gmem(
                                    made[name].at[made_slot], place(name, kind, i, None)
                                )

                plgpu.wait_smem_to_gmem(0)

        def tile(x, kind):
            if kind == "rows":
                return plgpu.SMEM((stages, CHUNK), x.dtype)
            return smem((stages, CHUNK, width(x, kind)), x.dtype)

        def stage(x, kind):
            shape = (CHUNK, BLOCK_V) if kind == "values" else (BLOCK_V, key_size)
            return smem((warpgroups, *shape), x.dtype)

        made_tiles = dict.fromkeys(
            ("inverse", "scores") if make else (), smem((MADE_STAGES, CHUNK, CHUNK), dtype)
        )
        pl.run_scoped(
            scoped,
            {name: tile(x, kind) for name, (x, kind) in operands.items()},
            made_tiles,
            kernel_inverse.scratch() if make else None,
            {name: stage(x, kind) for name, (x, kind) in out_types.items() if name in stored},
            plgpu.Barrier(num_arrivals=len(operands), num_barriers=stages),
            plgpu.Barrier(num_arrivals=warpgroups, num_barriers=stages),
            plgpu.Barrier(num_arrivals=1, num_barriers=MADE_STAGES),
            plgpu.Barrier(num_arrivals=warpgroups, num_barriers=MADE_STAGES),
            collective_axes="wg",
        )

    outputs = plgpu.kernel(
        kernel,
        out_type=(*(x for x, _ in out_types.values()), carry_type),
        grid=(value_size // block, heads, batch),
        grid_names=("g", "h", "b"),
        num_threads=warpgroups + 1 + make,
        thread_name="wg",
    )(*(x for x, _ in operands.values()), carry_in)
    return dict(zip(out_types, outputs, strict=False)), jnp.swapaxes(outputs[-1], -1, -2)


def _warpgroups(value_size: int) -> int:
    """Two blocks of values a program share its loads and its maker's work."""
    return 2 if value_size % (2 * BLOCK_V) == 0 else 1


def _pseudo_values(tiles, carry, inside, dtype):
    """U^T [64, C], float32, of a chunk whose incoming state is `carry`, and that state's cast."""
    shape = (BLOCK_V, CHUNK)
    state = carry.astype(dtype)
    v = plgpu.load(tiles["v"].at[:, inside].T, layout=WGMMA, optimized=False)
    beta = plgpu.load(tiles["beta"], layout=WGMMA.reduce(0), optimized=False)
    read = matmul(shape, (state, tiles["k"].T))
    x = (v.astype(jnp.float32) - read) * _columns(beta, shape)
    return matmul(shape, (x.astype(dtype), tiles["inverse"])).astype(dtype), state


def forward(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B T H K"],
    v: Float[Array, "B T H V"],
    beta: Float[Array, "B H T2"],
    tiles: tuple[Float[Array, "B H N C C"], Float[Array, "B H N C C"]] | None,
    initial_state: Float[Array, "B H K V"],
    *,
    scale: float,
) -> tuple[Float[Array, "B T H V"], Float[Array, "B H K V"]]:
    """Outputs and final state. `tiles`, from `prepare`, or None: made here."""
    dtype = v.dtype

    def body(tiles, carry, inside):
        u, state = _pseudo_values(tiles, carry, inside, dtype)
        output = matmul((BLOCK_V, CHUNK), (state, tiles["q"].T), (u, tiles["scores"].T))
        return {"o": (scale * output).astype(dtype)}, add_matmul(carry, (u, tiles["k"]))

    operands = {"q": (q, "keys"), "k": (k, "keys"), "v": (v, "values"), "beta": (beta, "rows")}
    if tiles is not None:
        operands |= {"inverse": (tiles[0], "tiles"), "scores": (tiles[1], "tiles")}
    outputs, final_state = _serial_kernel(
        body,
        operands,
        initial_state,
        {"o": (jax.ShapeDtypeStruct(v.shape, dtype), "values")},
        warpgroups=1 if tiles is not None else _warpgroups(v.shape[-1]),
        make=tiles is None,
    )
    return outputs["o"], final_state


def transition(
    k: Float[Array, "B T H K"],
    v: Float[Array, "B T H V"],
    beta: Float[Array, "B H T2"],
    inverse: Float[Array, "B H N C C"],
) -> tuple[Float[Array, "B H K K"], Float[Array, "B H K V"]]:
    """M and R such that the state after the last token is M S + R, for any initial state S.

    One pass over [R, M] as a state of V + K columns, which starts as [0, I]; past its V columns, v
    loads as zeros.
    """
    batch, _, heads, key_size = k.shape
    value_size = v.shape[-1]
    dtype = k.dtype

    def body(tiles, carry, inside):
        u, _ = _pseudo_values(tiles, carry, inside, dtype)
        return {}, add_matmul(carry, (u, tiles["k"]))

    if value_size == BLOCK_V:
        # The copy engine's descriptor drops an axis of one tile, and with it what is past its end.
        v = jnp.pad(v, ((0, 0), (0, 0), (0, 0), (0, BLOCK_V)))
    start = jnp.eye(key_size, value_size + key_size, k=value_size, dtype=jnp.float32)
    _, final = _serial_kernel(
        body,
        {
            "k": (k, "keys"),
            "v": (v, "values"),
            "beta": (beta, "rows"),
            "inverse": (inverse, "tiles"),
        },
        jnp.broadcast_to(start, (batch, heads, *start.shape)),
        {},
        warpgroups=_warpgroups(value_size + key_size),
    )
    return final[..., value_size:], final[..., :value_size]


def states(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B T H K"],
    v: Float[Array, "B T H V"],
    beta: Float[Array, "B H T2"],
    tiles: tuple[Float[Array, "B H N C C"], Float[Array, "B H N C C"]] | None,
    initial_state: Float[Array, "B H K V"],
) -> tuple[
    Float[Array, "B T H V"],
    Float[Array, "B H N V K"],
    tuple[Float[Array, "B H N C C"], Float[Array, "B H N C C"]],
]:
    """Pseudo-values, the transposed state that enters every chunk (both in v's dtype), and tiles.

    `tiles`, from `prepare`, or None: made here.
    """
    dtype = v.dtype
    batch, heads, key_size, value_size = initial_state.shape
    chunks = beta.shape[-1] // CHUNK
    warpgroups = 1 if tiles is not None else _warpgroups(value_size)

    def body(tiles, carry, inside):
        u, state = _pseudo_values(tiles, carry, inside, dtype)
        return {"u": u, "states": state}, add_matmul(carry, (u, tiles["k"]))

    operands = {"k": (k, "keys"), "v": (v, "values"), "beta": (beta, "rows")}
    states_type = jax.ShapeDtypeStruct((batch, heads, chunks, value_size, key_size), dtype)
    out_types = {
        "u": (jax.ShapeDtypeStruct(v.shape, dtype), "values"),
        "states": (states_type, "states"),
    }
    if tiles is None:
        tile_type = jax.ShapeDtypeStruct((batch, heads, chunks, CHUNK, CHUNK), dtype)
        operands["q"] = (q, "keys")
        out_types |= {"inverse": (tile_type, "tiles"), "scores": (tile_type, "tiles")}
    else:
        operands["inverse"] = (tiles[0], "tiles")
    outputs, _ = _serial_kernel(
        body, operands, initial_state, out_types, warpgroups=warpgroups, make=tiles is None
    )
    if tiles is None:
        tiles = outputs["inverse"], outputs["scores"]
    return outputs["u"], outputs["states"], tiles


def cotangents(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B T H K"],
    do: Float[Array, "B T H V"],
    beta: Float[Array, "B H T2"],
    tiles: tuple[Float[Array, "B H N C C"], Float[Array, "B H N C C"]],
    dfinal_state: Float[Array, "B H K V"],
    *,
    only_initial_state: bool = False,
) -> tuple[
    Float[Array, "B T H V"] | None,
    Float[Array, "B H N V K"] | None,
    Float[Array, "B H K V"],
]:
    """The reverse pass: dX, the transposed cotangent of every chunk's outgoing state (both in do's
    dtype), and the initial state's cotangent; everything, `dfinal_state` too, over `scale`.

    With `only_initial_state`, the first two are None.
    """
    dtype = do.dtype
    batch, heads, key_size, value_size = dfinal_state.shape
    shape = (BLOCK_V, CHUNK)

    def body(tiles, carry, inside):
        dstate = carry.astype(dtype)
        do_t = tiles["do"].at[:, inside].T
        beta_row = plgpu.load(tiles["beta"], layout=WGMMA.reduce(0), optimized=False)
        du = matmul(shape, (do_t, tiles["scores"]), (dstate, tiles["k"].T))
        dx = matmul(shape, (du.astype(dtype), tiles["inverse"].T))
        dv = (-dx * _columns(beta_row, shape)).astype(dtype)
        carry = add_matmul(carry, (do_t, tiles["q"]), (dv, tiles["k"]))
        outputs = {"dx": dx.astype(dtype), "dstates": dstate}
        return {} if only_initial_state else outputs, carry

    dstates_shape = (batch, heads, tiles[0].shape[2], value_size, key_size)
    out_types = {
        "dx": (jax.ShapeDtypeStruct(do.shape, dtype), "values"),
        "dstates": (jax.ShapeDtypeStruct(dstates_shape, dtype), "states"),
    }
    outputs, dinitial_state = _serial_kernel(
        body,
        {
            "q": (q, "keys"),
            "k": (k, "keys"),
            "do": (do, "values"),
            "beta": (beta, "rows"),
            "inverse": (tiles[0], "tiles"),
            "scores": (tiles[1], "tiles"),
        },
        dfinal_state,
        {} if only_initial_state else out_types,
        warpgroups=_warpgroups(value_size) if batch * heads > FEW_HEADS else 1,
        reverse=True,
    )
    return outputs.get("dx"), outputs.get("dstates"), dinitial_state
