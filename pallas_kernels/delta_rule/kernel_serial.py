# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Mosaic GPU kernels of the two serial passes: states forward, their cotangents in reverse.

Written transposed, a pass needs no shared memory of its own: a warpgroup keeps 64 value rows of
S^T (or dS^T) in its accumulators, and what one product yields is the next one's operand A, in
registers. All that streams through shared memory is operand B.

    forward    R^T = S^T K^T     X^T = (V^T - R^T) B     U^T = X^T Ti^T     S^T += U^T K
               O^T = scale (S^T Q^T + U^T P^T)
    reverse    dU^T = dO^T P + dS^T K^T     dX^T = dU^T Ti     dS^T += dO^T Q - (dX^T B) K

with B = diag(beta) and Ti, P from kernel_prepare.py. The reverse pass runs in units of `scale`
(it sees O / scale), so neither Q nor dO is ever multiplied by it.

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

from pallas_kernels.delta_rule.kernel_prepare import CHUNK, WGMMA, add_matmul, matmul, smem

BLOCK_V = 64
STAGES = 2


def _columns(x, shape):
    return lax.broadcast_in_dim(x, shape, (1,))


def _serial_kernel(body, operands, carry_in, out_types, *, warpgroups, reverse):
    """Runs `body` over the chunks of every head, carrying a [V, K] matrix.

    Args:
        body: (tiles, carry [64, K] float32, value_slice) -> (outputs, carry); `tiles` maps names
            to shared-memory refs, `outputs` names to 16-bit arrays to store.
        operands: name -> (array, kind); kind "keys" for [B, T, H, K], "values" for
            [B, T, H, V], "tiles" for [B, H, N, C, C], "rows" for [B, H, T2].
        carry_in: [B, H, K, V] float32.
        out_types: name -> (ShapeDtypeStruct, kind); kind "values" (the body's array is [64, C] and
            is stored transposed) or "states" ([B, H, N, V, K]).
    """
    carry_in = jnp.swapaxes(carry_in, -1, -2)
    carry_type = jax.ShapeDtypeStruct(carry_in.shape, jnp.float32)
    names = list(operands)
    batch, heads, value_size, key_size = carry_in.shape
    chunks = next(x.shape[2] for x, kind in operands.values() if kind == "tiles")
    stages = min(STAGES, chunks)
    block = warpgroups * BLOCK_V

    def kernel(*refs):
        in_refs = dict(zip(names, refs, strict=False))
        carry_ref, *rest = refs[len(names) :]
        out_refs = dict(zip(out_types, rest, strict=False))
        carry_out_ref = rest[len(out_types)]
        b, h, g = (lax.axis_index(name) for name in "bhg")
        wg = lax.axis_index("wg")

        def scoped(tiles, staging, full, empty):
            def chunk_of(i):
                return chunks - 1 - i if reverse else i

            def load(i, slot):
                tokens = pl.ds(chunk_of(i) * CHUNK, CHUNK)
                for name, (x, kind) in operands.items():
                    ref = in_refs[name]
                    if kind == "rows":
                        ref = ref.at[b, h, tokens]
                    elif kind == "tiles":
                        ref = ref.at[b, h, chunk_of(i)]
                    elif kind == "values":
                        ref = ref.at[b, tokens, h, pl.ds(g * block, block)]
                    else:
                        ref = ref.at[b, tokens, h]
                    plgpu.copy_gmem_to_smem(ref, tiles[name].at[slot], full.at[slot])

            @pl.when(wg < warpgroups)
            def _consume():
                plgpu.set_max_registers(232, action="increase")
                inside = pl.ds(wg * BLOCK_V, BLOCK_V)
                values = pl.ds(g * block + wg * BLOCK_V, BLOCK_V)
                carry = plgpu.load(carry_ref.at[b, h, values], layout=WGMMA, optimized=False)

                def step(i, carry):
                    n = chunk_of(i)
                    slot = lax.rem(i, jnp.int32(stages))
                    plgpu.barrier_wait(full.at[slot])
                    here = {name: ref.at[slot] for name, ref in tiles.items()}
                    outputs, carry = body(here, carry, inside)
                    plgpu.barrier_arrive(empty.at[slot])
                    plgpu.wait_smem_to_gmem(0, wait_read_only=True)
                    for name, (_, kind) in out_types.items():
                        ref = staging[name].at[wg]
                        if kind == "values":
                            ref.T[...] = outputs[name]
                        else:
                            ref[...] = outputs[name]
                    plgpu.commit_smem()
                    for name, (_, kind) in out_types.items():
                        ref = out_refs[name]
                        if kind == "values":
                            ref = ref.at[b, pl.ds(n * CHUNK, CHUNK), h, values]
                        else:
                            ref = ref.at[b, h, n, values]
                        plgpu.copy_smem_to_gmem(staging[name].at[wg], ref)
                    return carry

                carry = lax.fori_loop(0, chunks, step, carry)
                carry_out_ref[b, h, values] = carry
                plgpu.wait_smem_to_gmem(0)

            @pl.when(wg == warpgroups)
            def _load():
                plgpu.set_max_registers(40, action="decrease")
                for i in range(stages):
                    load(jnp.int32(i), i)

                @pl.loop(0, chunks - stages)
                def _(i):
                    slot = lax.rem(i, jnp.int32(stages))
                    plgpu.barrier_wait(empty.at[slot])
                    load(i + stages, slot)

        def tile(x, kind):
            if kind == "rows":
                return plgpu.SMEM((stages, CHUNK), x.dtype)
            return smem((stages, CHUNK, block if kind == "values" else x.shape[-1]), x.dtype)

        def stage(x, kind):
            rows, width = (CHUNK, BLOCK_V) if kind == "values" else (BLOCK_V, key_size)
            return smem((warpgroups, rows, width), x.dtype)

        pl.run_scoped(
            scoped,
            {name: tile(x, kind) for name, (x, kind) in operands.items()},
            {name: stage(x, kind) for name, (x, kind) in out_types.items()},
            plgpu.Barrier(num_arrivals=len(operands), num_barriers=stages),
            plgpu.Barrier(num_arrivals=warpgroups, num_barriers=stages),
            collective_axes="wg",
        )

    outputs = plgpu.kernel(
        kernel,
        out_type=(*(x for x, _ in out_types.values()), carry_type),
        grid=(value_size // block, heads, batch),
        grid_names=("g", "h", "b"),
        num_threads=warpgroups + 1,
        thread_name="wg",
    )(*(x for x, _ in operands.values()), carry_in)
    return dict(zip(out_types, outputs, strict=False)), jnp.swapaxes(outputs[-1], -1, -2)


def _warpgroups(batch: int, heads: int, value_size: int) -> int:
    """Two blocks of values a program share its loads; with few heads, more programs win."""
    blocks = value_size // BLOCK_V
    return 2 if blocks % 2 == 0 and batch * heads > 66 else 1


def _pseudo_values(tiles, carry, inside, dtype):
    """U^T [64, C], float32, of a chunk whose incoming state is `carry`, and that state's cast."""
    shape = (BLOCK_V, CHUNK)
    state = carry.astype(dtype)
    v = plgpu.load(tiles["v"].at[:, inside].T, layout=WGMMA, optimized=False)
    beta = plgpu.load(tiles["beta"], layout=WGMMA.reduce(0), optimized=False)
    read = matmul(shape, (state, tiles["k"].T))
    x = (v.astype(jnp.float32) - read) * _columns(beta, shape)
    return matmul(shape, (x.astype(dtype), tiles["inverse"].T)).astype(dtype), state


def forward(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B T H K"],
    v: Float[Array, "B T H V"],
    beta: Float[Array, "B H T2"],
    inverse: Float[Array, "B H N C C"],
    scores: Float[Array, "B H N C C"],
    initial_state: Float[Array, "B H K V"],
    *,
    scale: float,
) -> tuple[Float[Array, "B T H V"], Float[Array, "B H K V"]]:
    """Outputs and final state."""
    dtype = v.dtype

    def body(tiles, carry, inside):
        u, state = _pseudo_values(tiles, carry, inside, dtype)
        output = matmul((BLOCK_V, CHUNK), (state, tiles["q"].T), (u, tiles["scores"].T))
        return {"o": (scale * output).astype(dtype)}, add_matmul(carry, (u, tiles["k"]))

    outputs, final_state = _serial_kernel(
        body,
        {
            "q": (q, "keys"),
            "k": (k, "keys"),
            "v": (v, "values"),
            "beta": (beta, "rows"),
            "inverse": (inverse, "tiles"),
            "scores": (scores, "tiles"),
        },
        initial_state,
        {"o": (jax.ShapeDtypeStruct(v.shape, dtype), "values")},
        warpgroups=_warpgroups(*initial_state.shape[:2], v.shape[-1]),
        reverse=False,
    )
    return outputs["o"], final_state


def states(
    k: Float[Array, "B T H K"],
    v: Float[Array, "B T H V"],
    beta: Float[Array, "B H T2"],
    inverse: Float[Array, "B H N C C"],
    initial_state: Float[Array, "B H K V"],
) -> tuple[Float[Array, "B T H V"], Float[Array, "B H N V K"]]:
    """Pseudo-values, and the transposed state that enters every chunk, both in v's dtype."""
    dtype = v.dtype
    batch, heads, key_size, value_size = initial_state.shape

    def body(tiles, carry, inside):
        u, state = _pseudo_values(tiles, carry, inside, dtype)
        return {"u": u, "states": state}, add_matmul(carry, (u, tiles["k"]))

    shape = (batch, heads, inverse.shape[2], value_size, key_size)
    outputs, _ = _serial_kernel(
        body,
        {
            "k": (k, "keys"),
            "v": (v, "values"),
            "beta": (beta, "rows"),
            "inverse": (inverse, "tiles"),
        },
        initial_state,
        {
            "u": (jax.ShapeDtypeStruct(v.shape, dtype), "values"),
            "states": (jax.ShapeDtypeStruct(shape, dtype), "states"),
        },
        warpgroups=_warpgroups(batch, heads, value_size),
        reverse=False,
    )
    return outputs["u"], outputs["states"]


def cotangents(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B T H K"],
    do: Float[Array, "B T H V"],
    beta: Float[Array, "B H T2"],
    inverse: Float[Array, "B H N C C"],
    scores: Float[Array, "B H N C C"],
    dfinal_state: Float[Array, "B H K V"],
) -> tuple[Float[Array, "B T H V"], Float[Array, "B H N V K"], Float[Array, "B H K V"]]:
    """The reverse pass: dX, the transposed cotangent of every chunk's outgoing state (both in do's
    dtype), and the initial state's cotangent; everything, `dfinal_state` too, over `scale`."""
    dtype = do.dtype
    batch, heads, key_size, value_size = dfinal_state.shape
    shape = (BLOCK_V, CHUNK)

    def body(tiles, carry, inside):
        dstate = carry.astype(dtype)
        do_t = tiles["do"].at[:, inside].T
        beta_row = plgpu.load(tiles["beta"], layout=WGMMA.reduce(0), optimized=False)
        du = matmul(shape, (do_t, tiles["scores"]), (dstate, tiles["k"].T))
        dx = matmul(shape, (du.astype(dtype), tiles["inverse"]))
        dv = (-dx * _columns(beta_row, shape)).astype(dtype)
        carry = add_matmul(carry, (do_t, tiles["q"]), (dv, tiles["k"]))
        return {"dx": dx.astype(dtype), "dstates": dstate}, carry

    dstates_shape = (batch, heads, inverse.shape[2], value_size, key_size)
    outputs, dinitial_state = _serial_kernel(
        body,
        {
            "q": (q, "keys"),
            "k": (k, "keys"),
            "do": (do, "values"),
            "beta": (beta, "rows"),
            "inverse": (inverse, "tiles"),
            "scores": (scores, "tiles"),
        },
        dfinal_state,
        {
            "dx": (jax.ShapeDtypeStruct(do.shape, dtype), "values"),
            "dstates": (jax.ShapeDtypeStruct(dstates_shape, dtype), "states"),
        },
        warpgroups=_warpgroups(batch, heads, value_size),
        reverse=True,
    )
    return outputs["dx"], outputs["dstates"], dinitial_state
