# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Mosaic GPU kernels of the short convolution: one pass over the data forward, one backward.

A program of one warpgroup walks along time with ELEMENTS numbers of every token abreast, eight to
a CUDA thread: either ELEMENTS neighbouring channels of one stretch of tokens or, where D has no
such blocks, one group of channels of several stretches, the streams. A thread sees its channels'
tokens in order, so taps are its own registers; nothing is shifted through memory. A group (a head,
where it is normalised) lies in 8, 16 or 32 neighbouring lanes.

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

ELEMENTS = 1024  # numbers of a token, or of several tokens of as many streams, that go abreast
MULTIPROCESSORS = 132
STRETCHES = (64, 248)  # tokens that a stream walks, at least and at most (a TMA box has 256)
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
        heads: groups H that a program walks abreast in one stream.
        streams: stretches of tokens S that it walks abreast; H S N = ELEMENTS, H or S is 1.
        size: N.
        stretch: tokens that a stream walks.
        step: tokens of a tile; divides `stretch`.
    """

    heads: int
    streams: int
    size: int
    stretch: int
    step: int

    def layout(self):
        """Of [H, N] or [S, N]: N over lanes, eight a lane; the rest over lanes and warps."""
        lines = self.heads * self.streams
        if lines == 4:  # one line a warp
            tiling, warps, lanes = ((lines, self.size), (8,)), (-3,), (-2,)
        else:
            tiling = ((lines, self.size), (lines // 4, self.size), (8,))
            warps, lanes = (-5,), (-3, -2)
        return plgpu.Layout.TILED(plgpu.Tiling(tiling), warps, lanes, -1)

    @property
    def tiles(self) -> int:
        """Of a stretch."""
        return self.stretch // self.step

    def pieces(self, length: int) -> int:
        """Programs along time."""
        return -(-length // (self.streams * self.stretch))

    def smem(self, *slots: int, rows: int, dtype):
        return plgpu.SMEM((*slots, self.streams, rows, self.heads, 1, self.size), dtype)

    def line(self, ref, *index):
        """Of [..., S, tokens, H, N]: one token of every stream, as [H, N] or [S, N]."""
        *slots, token = index
        if self.streams == 1:
            return ref.at[(*slots, 0, token, slice(None), 0)]
        return ref.at[(*slots, slice(None), token, 0, 0)]

    def copy(self, one, ref, smem, start, rows: int, group):
        """one(GMEM, SMEM) for `rows` tokens of every stream, in the first one from `start` on.

        A start before the row's is moved to it.
        """
        if self.streams == 1:
            tokens = pl.ds(lax.max(start, 0), rows)
            groups = pl.ds(group * self.heads, self.heads)
            one(ref.at[tokens, groups], smem.at[0, :rows, :, 0])
            return

        def stream(s, carry):
            tokens = pl.ds(lax.max(start + s * self.stretch, 0), rows)
            one(ref.at[tokens, group], smem.at[s, :rows, 0, 0])
            return carry

        lax.fori_loop(0, self.streams, stream, None)

    def copy_in(self, ref, smem, barrier, start, rows: int, group):
        def one(gmem, smem):
            plgpu.copy_gmem_to_smem(gmem, smem, barrier)

        self.copy(one, ref, smem, start, rows, group)

    def copy_out(self, smem, ref, start, rows: int, group):
        """As one group to be waited for."""

        def one(gmem, smem):
            plgpu.copy_smem_to_gmem(smem, gmem, commit_group=False)

        self.copy(one, ref, smem, start, rows, group)
        plgpu.commit_smem_to_gmem_group()


def cut(shape: tuple[int, ...], programs: int, *, stretch: int | None = None) -> Cut:
    """The cut of arrays [B, T, G, N] of `shape`, N one of 64, 128, 256.

    All programs should be on the device at once, as many as it holds, and so all end together:
    `programs` is how many a multiprocessor holds. Results do not depend on it, bit for bit, except
    the order in which the weight's gradient is summed.
    """
    batch, length, groups, size = shape
    lines = ELEMENTS // size
    heads = lines if groups % lines == 0 else 1
    streams = lines // heads
    if stretch is None:
        pieces = max(1, MULTIPROCESSORS * programs // (batch * groups // heads))
        fair = -(-length // (pieces * streams))
        stretch = min(max(-(-fair // STEP) * STEP, STRETCHES[0]), STRETCHES[1])
    return Cut(heads, streams, size, stretch, STEP)


def load(ref, how: Cut):
    return plgpu.load(ref, layout=how.layout(), optimized=False)


def over_lines(x, like):
    """[N] or [lines] -> [lines, N]."""
    return lax.broadcast_in_dim(x, like.shape, (1 if x.shape[0] == like.shape[1] else 0,))


def load_weights(weight_ref, how: Cut, group):
    """The taps [H, N], or the same [N] for every stream."""
    width = weight_ref.shape[0]
    if how.streams == 1:
        heads = pl.ds(group * how.heads, how.heads)
        return [load(weight_ref.at[j, heads], how) for j in range(width)]
    layout = how.layout()
    rows = [
        plgpu.load(weight_ref.at[j, group], layout=layout.reduce(0), optimized=False)
        for j in range(width)
    ]
    shape = (how.streams, how.size)
    return [plgpu.layout_cast(lax.broadcast_in_dim(row, shape, (1,)), layout) for row in rows]


def masked(xs, counts):
    """xs[j] where j tokens back are of the same segment, else 0. What is masked stays masked when
    the taps move on, so they may be carried like that."""
    if counts is None:
        return xs
    masked = [jnp.where(over_lines(counts, x) >= j, x, 0.0) for j, x in enumerate(xs) if j > 0]
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
    """The inputs 1, 2, ... tokens before every stream's first; zero where there are none."""
    lines = []
    for j in range(1, past + 1):
        x = load(how.line(halo_s, past - j), how).astype(jnp.float32)
        stream = plgpu.broadcasted_iota(jnp.int32, x.shape, 0, layout=how.layout())
        stream = stream * (how.streams > 1) + piece * how.streams
        lines.append(jnp.where(stream > 0, x, 0.0))
    return lines


def as_tuples(lists):
    return tuple(map(tuple, lists))


def tiles_with_tokens(length: int, how: Cut, piece):
    """Tiles with tokens in them."""
    left = length - piece * (how.streams * how.stretch)
    return lax.min(pl.cdiv(left, how.step), how.tiles)


def counts_line(counts_s, token, how: Cut):
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
    counts: Int[Array, "B Pieces R Lines"] | None,
    *,
    options: Options,
    how: Cut,
    interpret=None,
) -> Float[Array, "B T G N"]:
    """y of every token.

    Args:
        x: bfloat16 or float16.
        weight: float32.
        counts: tokens of the same segment just before each one, at most W - 1 (see `kernel_vjp`).
    """
    length, past, dtype = x.shape[1], weight.shape[0] - 1, x.dtype

    def program(x_ref, weight_ref, *refs):
        *counts_ref, y_ref = refs
        b, piece, group = (lax.axis_index(name) for name in ("b", "piece", "group"))
        start = piece * (how.streams * how.stretch)
        steps = tiles_with_tokens(length, how, piece)
        x_ref, y_ref = x_ref.at[b], y_ref.at[b]

        def scoped(x_s, y_s, loaded, halo_loaded, counts_s=None):
            def fetch(tile, slot):
                first = start + tile * how.step
                how.copy_in(x_ref, x_s.at[slot], loaded.at[slot], first, how.step, group)

            how.copy_in(x_ref, y_s.at[0], halo_loaded, start - past, past, group)
            if counts_s is not None:
                plgpu.copy_gmem_to_smem(counts_ref[0].at[b, piece], counts_s, halo_loaded)
            for tile in range(min(SLOTS, how.tiles)):
                pl.when(tile < steps)(lambda tile=tile: fetch(tile, tile))
            weights = load_weights(weight_ref, how, group)
            plgpu.barrier_wait(halo_loaded)

            def step(tile, window):
                slot, out = lax.rem(tile, SLOTS), lax.rem(tile, OUT_SLOTS)
                plgpu.barrier_wait(loaded.at[slot])
                plgpu.wait_smem_to_gmem(OUT_SLOTS - 1, wait_read_only=True)
                for token in range(how.step):
                    now = load(how.line(x_s, slot, token), how).astype(jnp.float32)
                    same = counts_line(counts_s, tile * how.step + token, how)
                    taps = masked([now, *window], same)
                    y, _ = activate(convolve(weights, taps), options)
                    if options.norm_eps is not None:
                        r = lax.rsqrt(jnp.sum(y * y, axis=1) + options.norm_eps)
                        y = y * over_lines(r, y)
                    how.line(y_s, out, token)[...] = y.astype(dtype)
                    window = taps[:-1]
                plgpu.commit_smem()
                first = start + tile * how.step
                how.copy_out(y_s.at[out], y_ref, first, how.step, group)
                pl.when(tile + SLOTS < steps)(lambda: fetch(tile + SLOTS, slot))
                return tuple(window)

            lax.fori_loop(0, steps, step, tuple(past_inputs(y_s.at[0], how, piece, past)))
            plgpu.wait_smem_to_gmem(0)

        scratch = [
            how.smem(SLOTS, rows=how.step, dtype=dtype),
            how.smem(OUT_SLOTS, rows=how.step, dtype=dtype),
            plgpu.Barrier(num_arrivals=how.streams, num_barriers=SLOTS),
            plgpu.Barrier(num_arrivals=how.streams + (counts is not None)),
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
