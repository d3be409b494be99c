# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Mosaic GPU kernels of the short convolution: one pass over the data forward, one backward.

A program of one warpgroup walks along a stretch of tokens with ELEMENTS neighbouring channels
abreast, eight to a CUDA thread. A thread sees its channels' tokens in order, so taps are its own
registers; nothing is shifted through memory. A group (a head, where it is normalised) lies in 8, 16
or 32 neighbouring lanes.

Tiles of `step` tokens come by TMA, several in flight, and leave by TMA. Both fill with zeros or
drop what lies past T.
"""

from typing import NamedTuple

import jax
import jax.experimental.pallas as pl
import jax.experimental.pallas.mosaic_gpu as plgpu
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from pallas_kernels.short_conv.kernel_support import ELEMENTS

MULTIPROCESSORS = 132
STRETCHES = (64, 248)  # tokens that a program walks, at least and at most
STEP = 4  # tokens of a tile
SLOTS = 3  # tiles in flight
OUT_SLOTS = 2
# That a multiprocessor holds, by registers and shared memory; without and with segments.
PROGRAMS = {False: 5, True: 4}


class Options(NamedTuple):
    """What is computed. `norm_eps` None leaves the norm over a group out."""

    silu: bool
    norm_eps: float | None


class Cut(NamedTuple):
    """How [B, T, G, N], G groups of N channels, is cut up.

    Attributes:
        heads: groups H that a program walks abreast; H N = ELEMENTS.
        size: N.
        stretch: tokens that a program walks.
        step: tokens of a tile; divides `stretch`.
    """

    heads: int
    size: int
    stretch: int
    step: int

    def layout(self):
        """Of [H, N]: N over lanes, eight a lane; H over lanes and warps."""
        if self.heads == 4:  # one group a warp
            tiling, warps, lanes = ((self.heads, self.size), (8,)), (-3,), (-2,)
        else:
            tiling = ((self.heads, self.size), (self.heads // 4, self.size), (8,))
            warps, lanes = (-5,), (-3, -2)
        return plgpu.Layout.TILED(plgpu.Tiling(tiling), warps, lanes, -1)

    @property
    def tiles(self) -> int:
        """Of a stretch."""
        return self.stretch // self.step

    def pieces(self, length: int) -> int:
        """Programs along time."""
        return -(-length // self.stretch)

    def smem(self, *slots: int, rows: int, dtype):
        """Tokens in shared memory, the 1 for an order as in device memory: without it, tiles are
        swizzled, in more axes than the copy engine has."""
        return plgpu.SMEM((*slots, rows, self.heads, 1, self.size), dtype)

    def tokens(self, ref, slot, count: int | None = None):
        """Of `smem`: [tokens, H, N], the first `count`."""
        return ref.at[slot, pl.ds(0, ref.shape[-4] if count is None else count), :, 0]

    def token(self, ref, slot, row):
        """Of `smem`: [H, N]."""
        return ref.at[slot, row, :, 0]

    def piece(self, ref, start, count: int, group):
        """Of [T, G, N]: `count` tokens; a start before the row's is moved to it."""
        return ref.at[pl.ds(lax.max(start, 0), count), pl.ds(group * self.heads, self.heads)]


def cut(shape: tuple[int, ...], programs: int, *, stretch: int | None = None) -> Cut:
    """The cut of arrays [B, T, G, N] of `shape`, N one of 64, 128, 256, G N a multiple of ELEMENTS.

    All programs should be on the device at once, as many as it holds, and so all end together:
    `programs` is how many a multiprocessor holds. Results do not depend on it, bit for bit, except
    the order in which the weight's gradient is summed.
    """
    batch, length, groups, size = shape
    heads = ELEMENTS // size
    if stretch is None:
        pieces = max(1, MULTIPROCESSORS * programs // (batch * groups // heads))
        fair = -(-length // pieces)
        stretch = min(max(-(-fair // STEP) * STEP, STRETCHES[0]), STRETCHES[1])
    return Cut(heads, size, stretch, STEP)


def load(ref, how: Cut):
    return plgpu.load(ref, layout=how.layout(), optimized=False)


def where(condition, x):
    """x or zeros, by a scalar."""
    return jnp.where(lax.broadcast_in_dim(condition, x.shape, ()), x, 0.0)


def over_channels(x, like):
    """[H] -> [H, N]."""
    return lax.broadcast_in_dim(x, like.shape, (0,))


def load_weights(weight_ref, how: Cut, group):
    """The taps, [H, N] each."""
    heads = pl.ds(group * how.heads, how.heads)
    return [load(weight_ref.at[j, heads], how) for j in range(weight_ref.shape[0])]


def masked(xs, counts):
    """xs[j] where j tokens back are of the same segment, else 0. What is masked stays masked when
    the taps move on, so they may be carried like that."""
    if counts is None:
        return xs
    masked = [jnp.where(over_channels(counts, x) >= j, x, 0.0) for j, x in enumerate(xs) if j > 0]
    return [xs[0], *masked]


def convolve(weights, taps):
    z = weights[0] * taps[0]
    for w, x in zip(weights[1:], taps[1:], strict=True):
        z = z + w * x
    return z


def _sigmoid(z):
    """By the one fast instruction there is; a division would be ten."""
    return 0.5 + 0.5 * jnp.tanh(0.5 * z)


def activate(z, options: Options):
    """(activation, its derivative)."""
    if not options.silu:
        return z, None
    s = _sigmoid(z)
    u = z * s
    return u, s + (u - u * s)


def past_inputs(halo_s, how: Cut, piece, past: int):
    """The inputs 1, 2, ... tokens before the stretch's first; zero where there are none."""
    lines = []
    for j in range(1, past + 1):
        x = load(how.token(halo_s, 0, past - j), how).astype(jnp.float32)
        lines.append(where(piece > 0, x))
    return lines


def as_tuples(lists):
    return tuple(map(tuple, lists))


def tiles_with_tokens(length: int, how: Cut, piece):
    """Tiles with tokens in them."""
    return lax.min(pl.cdiv(length - piece * how.stretch, how.step), how.tiles)


def load_counts(counts_s, token, how: Cut):
    if counts_s is None:
        return None
    return plgpu.load(counts_s.at[token], layout=how.layout().reduce(1), optimized=False)


def launch(kernel, how: Cut, x, *operands, out_type, interpret):
    batch, length, groups, _ = x.shape
    return plgpu.kernel(
        kernel,
        out_type=out_type,
        grid=(batch, how.pieces(length), groups // how.heads),
        grid_names=("b", "piece", "group"),
        compiler_params=plgpu.CompilerParams(approx_math=True, unsafe_no_auto_barriers=True),
        **({} if interpret is None else {"interpret": interpret}),
    )(x, *operands)


def forward(
    x: Float[Array, "B T G N"],
    weight: Float[Array, "W G N"],
    counts: Int[Array, "B Pieces R H"] | None,
    *,
    options: Options,
    how: Cut,
    interpret=None,
) -> Float[Array, "B T G N"]:
    """y of every token.

    Args:
        x: bfloat16 or float16.
        weight: float32.
        counts: tokens of the same segment just before each one, at most W - 1 (see `kernel_vjp`);
            None with W = 1.
    """
    length, past, dtype = x.shape[1], weight.shape[0] - 1, x.dtype

    def program(x_ref, weight_ref, *refs):
        *counts_ref, y_ref = refs
        b, piece, group = (lax.axis_index(name) for name in ("b", "piece", "group"))
        start = piece * how.stretch
        steps = tiles_with_tokens(length, how, piece)
        x_ref, y_ref = x_ref.at[b], y_ref.at[b]

        def scoped(x_s, y_s, loaded, halo_loaded, counts_s=None):
            def fetch(tile, slot):
                tokens = how.piece(x_ref, start + tile * how.step, how.step, group)
                plgpu.copy_gmem_to_smem(tokens, how.tokens(x_s, slot), loaded.at[slot])

            if past:
                halo = how.piece(x_ref, start - past, past, group)
                plgpu.copy_gmem_to_smem(halo, how.tokens(y_s, 0, past), halo_loaded)
            if counts_s is not None:
                plgpu.copy_gmem_to_smem(counts_ref[0].at[b, piece], counts_s, halo_loaded)
            for tile in range(min(SLOTS, how.tiles)):
                pl.when(tile < steps)(lambda tile=tile: fetch(tile, tile))
            weights = load_weights(weight_ref, how, group)
            if past:
                plgpu.barrier_wait(halo_loaded)

            def step(tile, window):
                slot, out = lax.rem(tile, SLOTS), lax.rem(tile, OUT_SLOTS)
                plgpu.barrier_wait(loaded.at[slot])
                plgpu.wait_smem_to_gmem(OUT_SLOTS - 1, wait_read_only=True)
                for token in range(how.step):
                    now = load(how.token(x_s, slot, token), how).astype(jnp.float32)
                    same = load_counts(counts_s, tile * how.step + token, how)
                    taps = masked([now, *window], same)
                    y, _ = activate(convolve(weights, taps), options)
                    if options.norm_eps is not None:
                        r = lax.rsqrt(jnp.sum(y * y, axis=1) + options.norm_eps)
                        y = y * over_channels(r, y)
                    how.token(y_s, out, token)[...] = y.astype(dtype)
                    window = taps[:-1]
                plgpu.commit_smem()
                tokens = how.piece(y_ref, start + tile * how.step, how.step, group)
                plgpu.copy_smem_to_gmem(how.tokens(y_s, out), tokens)
                pl.when(tile + SLOTS < steps)(lambda: fetch(tile + SLOTS, slot))
                return tuple(window)

            lax.fori_loop(0, steps, step, tuple(past_inputs(y_s, how, piece, past)))
            plgpu.wait_smem_to_gmem(0)

        scratch = [
            how.smem(SLOTS, rows=how.step, dtype=dtype),
            how.smem(OUT_SLOTS, rows=how.step, dtype=dtype),
            plgpu.Barrier(num_arrivals=1, num_barriers=SLOTS),
            plgpu.Barrier(num_arrivals=1 + (counts is not None)),
        ]
        if counts is not None:
            scratch.append(plgpu.SMEM(counts.shape[2:], jnp.int32))
        pl.run_scoped(scoped, *scratch)

    operands = (weight,) if counts is None else (weight, counts)
    return launch(
        program,
        how,
        x,
        *operands,
        out_type=jax.ShapeDtypeStruct(x.shape, dtype),
        interpret=interpret,
    )
