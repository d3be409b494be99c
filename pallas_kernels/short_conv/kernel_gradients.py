# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Mosaic GPU kernel of the short convolution's gradients: reads x and dy once, writes dx once."""

import jax
import jax.experimental.pallas as pl
import jax.experimental.pallas.mosaic_gpu as plgpu
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from pallas_kernels.short_conv import kernel
from pallas_kernels.short_conv.kernel import OUT_SLOTS, SLOTS

PROGRAMS = {False: 3, True: 3}  # see kernel.py
# Tokens; more need more registers than three programs a multiprocessor have. Fewer with segments.
UNROLLED = {False: 2, True: 1}


def gradients(
    x: Float[Array, "B T G N"],
    dy: Float[Array, "B T G N"],
    weight: Float[Array, "W G N"],
    counts: Int[Array, "B Pieces R H"] | None,
    *,
    options: kernel.Options,
    how: kernel.Cut,
    interpret=None,
) -> tuple[Float[Array, "B T G N"], Float[Array, "B Pieces W G N"]]:
    """(dx, the weight's gradient in float32, summed over each stretch's tokens).

    A program reads W - 1 tokens more than it writes: dx of a token waits for the dz after it.
    """
    batch, length, groups, size = x.shape
    width, past, dtype = weight.shape[0], weight.shape[0] - 1, x.dtype
    unrolled = UNROLLED[counts is not None]

    def program(x_ref, dy_ref, weight_ref, *refs):
        *counts_ref, dx_ref, dweight_ref = refs
        b, piece, group = (lax.axis_index(name) for name in ("b", "piece", "group"))
        start = piece * how.stretch
        steps = kernel.tiles_with_tokens(length, how, piece)
        x_ref, dy_ref, dx_ref = (ref.at[b] for ref in (x_ref, dy_ref, dx_ref))

        def scoped(x_s, dy_s, dx_s, loaded, halo_loaded, counts_s=None):
            def fetch_rows(first, rows, slot):
                for ref, smem in ((x_ref, x_s), (dy_ref, dy_s)):
                    tokens = how.piece(ref, first, rows, group)
                    plgpu.copy_gmem_to_smem(tokens, how.tokens(smem, slot, rows), loaded.at[slot])

            def fetch(tile):  # slot 0 has the first W - 1 tokens before the tiles
                fetch_rows(start + past + tile * how.step, how.step, lax.rem(tile + 1, SLOTS))

            if past:
                halo = how.piece(x_ref, start - past, past, group)
                plgpu.copy_gmem_to_smem(halo, how.tokens(dx_s, 0, past), halo_loaded)
                fetch_rows(start, past, 0)
            if counts_s is not None:
                plgpu.copy_gmem_to_smem(counts_ref[0].at[b, piece], counts_s, halo_loaded)
            for tile in range(min(SLOTS - 1, how.tiles)):
                pl.when(tile < steps)(lambda tile=tile: fetch(tile))
            weights = kernel.load_weights(weight_ref, how, group)
            if past:
                plgpu.barrier_wait(halo_loaded)
                plgpu.barrier_wait(loaded.at[0])

            def token(slot, row, number, window, waiting, dweights):
                """One token's dz and where it goes; dx of W - 1 tokens ago is then finished."""
                x, dy = (
                    kernel.load(how.token(s, slot, row), how).astype(jnp.float32)
                    for s in (x_s, dy_s)
                )
                same = kernel.load_counts(counts_s, number, how)
                taps = kernel.masked([x, *window], same)
                u, slope = kernel.activate(kernel.convolve(weights, taps), options)
                if options.norm_eps is not None:
                    r = lax.rsqrt(jnp.sum(u * u, axis=1) + options.norm_eps)
                    along = jnp.sum(u * dy, axis=1) * (r * r * r)
                    dy = kernel.over_channels(r, dy) * dy - kernel.over_channels(along, u) * u
                dz = dy if slope is None else dy * slope
                parts = kernel.masked([w * dz for w in weights], same)
                # What has come together of dx, from the newest token to the oldest.
                first, *rest = parts
                sums = [first, *(a + b for a, b in zip(waiting, rest, strict=True))]
                dweights = [a + tap * dz for a, tap in zip(dweights, taps, strict=True)]
                return sums[-1], *kernel.as_tuples((taps[:-1], sums[:-1], dweights))

            zero = plgpu.layout_cast(jnp.zeros((how.heads, size), jnp.float32), how.layout())
            state = (
                kernel.past_inputs(dx_s, how, piece, past),
                [zero] * past,
                [zero] * width,
            )
            state = lax.fori_loop(
                0, past, lambda i, state: tuple(token(0, i, i, *state)[1:]), kernel.as_tuples(state)
            )
            # These tokens are the stretch's before, if there is one; it counts them.
            window, waiting, dweights = state
            dweights = tuple(kernel.where(piece == 0, x) for x in dweights)
            plgpu.commit_smem()  # everybody has read slot 0
            pl.when(steps > SLOTS - 1)(lambda: fetch(SLOTS - 1))

            def step(tile, state):
                slot, out = lax.rem(tile + 1, SLOTS), lax.rem(tile, OUT_SLOTS)
                plgpu.barrier_wait(loaded.at[slot])
                plgpu.wait_smem_to_gmem(OUT_SLOTS - 1, wait_read_only=True)

                def some(i, state):
                    for j in range(unrolled):
                        row = i * unrolled + j
                        dx, *state = token(slot, row, past + tile * how.step + row, *state)
                        how.token(dx_s, out, row)[...] = dx.astype(dtype)
                    return tuple(state)

                state = lax.fori_loop(0, how.step // unrolled, some, state)
                plgpu.commit_smem()
                tokens = how.piece(dx_ref, start + tile * how.step, how.step, group)
                plgpu.copy_smem_to_gmem(how.tokens(dx_s, out), tokens)
                pl.when(tile + SLOTS < steps)(lambda: fetch(tile + SLOTS))
                return state

            *_, dweights = lax.fori_loop(0, steps, step, (window, waiting, dweights))
            heads = pl.ds(group * how.heads, how.heads)
            for j, dweight in enumerate(dweights):
                dweight_ref[b, piece, j, heads] = dweight
            plgpu.wait_smem_to_gmem(0)

        scratch = [
            how.smem(SLOTS, rows=how.step, dtype=dtype),
            how.smem(SLOTS, rows=how.step, dtype=dtype),
            how.smem(OUT_SLOTS, rows=how.step, dtype=dtype),
            plgpu.Barrier(num_arrivals=2, num_barriers=SLOTS),
            plgpu.Barrier(num_arrivals=1 + (counts is not None)),
        ]
        if counts is not None:
            scratch.append(plgpu.SMEM(counts.shape[2:], jnp.int32))
        pl.run_scoped(scoped, *scratch)

    sums = (batch, how.pieces(length), width, groups, size)
    operands = (dy, weight) if counts is None else (dy, weight, counts)
    return kernel.launch(
        program,
        how,
        x,
        *operands,
        out_type=(
            jax.ShapeDtypeStruct(x.shape, dtype),
            jax.ShapeDtypeStruct(sums, jnp.float32),
        ),
        interpret=interpret,
    )
