# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The Hopper kernels as one differentiable function: padding, order of kernels, residuals.

Residuals are the inputs, as in vjp.py; chunk states are recomputed, and so are tiles where the
forward pass makes them on its way (with few heads, or K > 128, a kernel of its own does, and they
are kept: 384 bytes a token and head). With residuals="save" D, chunk states and tiles are kept too,
as the forward pass comes by them. What is neither input nor mark has the name `names.RESIDUALS`,
for policies of `jax.checkpoint`. A custom_vjp: kernels have no forward mode and no second order;
"xla" has both.

A long row with few heads is cut into pieces that are gone through side by side. A piece maps its
incoming state S to M S + R, exactly; M is what it does to the identity with v = 0, R what it does
to zero. From M and R of all pieces follows each one's true incoming state, and M^T does the same
for cotangents. Residuals are then also the pieces' M and incoming states (small).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from pallas_kernels._common import chunking, names
from pallas_kernels.delta_rule import (
    kernel_backward,
    kernel_decay,
    kernel_gradients,
    kernel_passes,
    kernel_prepare,
)
from pallas_kernels.delta_rule.kernel_prepare import CHUNK
from pallas_kernels.delta_rule.kernel_support import FEW_HEADS, KEY_SIZES, WIDE, saves

PIECES = 4
# Tokens from which a row of few heads is cut into pieces; of heads with K > 128, whose chunks take
# longer, the second.
LONG, LONG_WIDE = 32768, 16384


def _pad_beta(beta: Float[Array, "B T H"]) -> Float[Array, "B H T2"]:
    length = chunking.num_chunks(beta.shape[1], CHUNK) * CHUNK
    return jnp.swapaxes(chunking.pad_axes(beta.astype(jnp.float32), {1: length}), 1, 2)


def _pieces(length: int, heads: int, key_size: int) -> int:
    """Into how many pieces a row is cut, to be gone through side by side, unless the caller says.

    Worth it (the row is gone through twice) only for few heads and many tokens. Not a function of
    the batch: the same row gives the same bits in any batch.
    """
    long = LONG if key_size <= WIDE else LONG_WIDE
    return PIECES if length % (PIECES * CHUNK) == 0 and length >= long and heads <= 16 else 1


def _cut(x: Float[Array, "B T *D"], pieces: int) -> Float[Array, "B2 T2 *D"]:
    """[B, T, ...] -> [B P, T / P, ...]."""
    return x.reshape(x.shape[0] * pieces, x.shape[1] // pieces, *x.shape[2:])


def _through_pieces(transitions, additions, state, *, reverse=False):
    """The state that enters every piece: state <- M state + R, in the order of the pieces.

    transitions [B P, H, K, K], additions [B P, H, K, V], state [B, H, K, V]; in reverse, the
    cotangent that enters every piece from behind, state <- M^T state + R.
    """
    batch = state.shape[0]
    m, r = (x.reshape(batch, -1, *x.shape[1:]) for x in (transitions, additions))
    pieces = m.shape[1]
    subscripts = "bhji,bhjv->bhiv" if reverse else "bhij,bhjv->bhiv"
    entering = [state]
    for i in range(pieces - 1):
        n = pieces - 1 - i if reverse else i
        moved = jnp.einsum(subscripts, m[:, n], entering[-1], precision="highest")
        entering.append(moved + r[:, n])
    if reverse:
        entering.reverse()
    return jnp.stack(entering, axis=1).reshape(r.shape[0] * pieces, *state.shape[1:])


class _Options(NamedTuple):
    scale: float
    pieces: int
    save: bool


class _Residuals(NamedTuple):
    """What the backward pass is computed from."""

    inputs: tuple  # q, k, v, beta, g
    marks: jax.Array | None
    tiles: kernel_prepare.Tiles | None
    transitions: jax.Array | None  # of every piece
    states: jax.Array  # that enter every piece
    forward: kernel_passes.Forward | None  # with residuals="save": D and the chunks' states


def _cut_inputs(inputs, pieces):
    """q, k, v and beta of pieces; decays."""
    q, k, v, beta, g = inputs
    rows = _pad_beta(_cut(beta, pieces))
    decays = None if g is None else kernel_decay.make_decays(_cut(g, pieces), rows)
    return (*(_cut(x, pieces) for x in (q, k, v)), rows), decays


@functools.partial(jax.custom_vjp, nondiff_argnums=(7,))
def _delta_rule(q, k, v, beta, g, initial_state, segments, options):
    options = options._replace(save=False)
    return _forward(q, k, v, beta, g, initial_state, segments, options)[0]


def _forward(q, k, v, beta, g, initial_state, segments, options):
    inputs = q, k, v, beta, g
    cut, decays = _cut_inputs(inputs, options.pieces)
    marks = None
    if segments is not None:
        marks = _cut(kernel_prepare.segment_marks(segments), options.pieces)
    tiles = None
    few = cut[0].shape[0] * q.shape[2] <= FEW_HEADS
    on_the_way = kernel_passes.makes_tiles(cut[0], *cut[2:], marks, decays, save=options.save)
    if few or options.pieces > 1 or not on_the_way:
        tiles = kernel_prepare.prepare(cut[0], cut[1], cut[3], marks, decays)
    transitions, states = None, initial_state
    if options.pieces > 1:
        transitions, additions = kernel_passes.transition(*cut[1:], tiles, marks, decays)
        states = _through_pieces(transitions, additions, initial_state)
    forward = kernel_passes.forward(
        *cut, tiles, marks, decays, states, scale=options.scale, save=options.save
    )
    # Of every row, the state after its last piece.
    final_state = forward.final_state.reshape(q.shape[0], -1, *initial_state.shape[1:])[:, -1]
    output = forward.output.reshape(v.shape)
    kept = forward._replace(output=None, final_state=None) if options.save else None
    made = (tiles, transitions, states if options.pieces > 1 else None, kept)
    tiles, transitions, entering, kept = checkpoint_name(made, names.RESIDUALS)
    states = initial_state if entering is None else entering
    residuals = _Residuals(inputs, marks, tiles, transitions, states, kept)
    return (output, final_state), residuals


def _backward(options, residuals, cotangents):
    inputs, marks, tiles, transitions, states, forward = residuals
    do, dfinal_state = cotangents
    scale, pieces, _ = options
    (q, k, v, beta), decays = _cut_inputs(inputs, pieces)
    do = _cut(do, pieces)
    dstates = dfinal_state
    if forward is None:
        forward = kernel_passes.forward(
            q, k, v, beta, tiles, marks, decays, states, scale=scale, outputs=False, save=True
        )
    reverse = functools.partial(
        kernel_passes.cotangents,
        q,
        k,
        do,
        beta=beta,
        tiles=forward.tiles,
        marks=marks,
        decays=decays,
        scale=scale,
    )
    if pieces > 1:
        nothing = jnp.zeros((q.shape[0], *dfinal_state.shape[1:]), jnp.float32)
        additions = reverse(d=None, dfinal_state=nothing).dinitial_state
        dstates = _through_pieces(transitions, additions, dstates, reverse=True)
    dg = None
    if kernel_backward.takes(q, do, marks, decays):
        dq, dk, dv, dbeta, dinitial_state = kernel_backward.backward(
            q, k, do, beta, forward.d, forward.states, forward.tiles, dstates, scale=scale
        )
    else:
        dv, dbeta, dstates, dinitial_state = reverse(d=forward.d, dfinal_state=dstates)
        dq, dk, shares = kernel_gradients.gradients(
            q, k, beta, do, forward.d, dv, marks, forward.states, dstates, decays, scale=scale
        )
        if decays is not None:
            dg = kernel_decay.log_decay_gradient(shares, decays, marks, q.shape[1])
            dg = dg.reshape(inputs[4].shape)
    dq, dk, dv = (x.reshape(y.shape) for x, y in zip((dq, dk, dv), inputs, strict=False))
    dbeta = jnp.swapaxes(dbeta, 1, 2)[:, : q.shape[1]]
    dbeta = dbeta.reshape(inputs[3].shape).astype(inputs[3].dtype)
    dinitial_state = dinitial_state.reshape(-1, pieces, *dfinal_state.shape[1:])[:, 0]
    return dq, dk, dv, dbeta, dg, dinitial_state, None


_delta_rule.defvjp(_forward, _backward)


def delta_rule_kernels(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B T H K"],
    v: Float[Array, "B T H V"],
    beta: Float[Array, "B T H"],
    initial_state: Float[Array, "B H K V"],
    segments: Int[Array, "B T"] | None,
    *,
    scale: float,
    chunk_size: int,
    sequence_pieces: int | None = None,
    residuals: str = "recompute",
    g: Float[Array, "B T H"] | None = None,
) -> tuple[Float[Array, "B T H V"], Float[Array, "B H K V"]]:
    """The delta rule on a Hopper GPU; what it takes, kernel_support.py says.

    With log decays g, float32, in [kernel_decay.ERASES, 0], the gated one; then K <= 128.
    """
    del chunk_size  # these kernels' chunks have 64 tokens
    if 0 in v.shape or 0 in q.shape:
        return jnp.zeros_like(v), initial_state
    key_size, value_size = q.shape[-1], v.shape[-1]
    wide_key = next(size for size in KEY_SIZES if size >= key_size)
    wide_value = chunking.num_chunks(value_size, 64) * 64
    # Loads past T read zeros, but the copy engine wants whole rows of its 8-row tiles.
    length = v.shape[1]
    even = chunking.num_chunks(length, 8) * 8
    q, k = (chunking.pad_axes(x, {1: even, 3: wide_key}) for x in (q, k))
    v, beta = chunking.pad_axes(v, {1: even, 3: wide_value}), chunking.pad_axes(beta, {1: even})
    initial_state = chunking.pad_axes(initial_state, {2: wide_key, 3: wide_value})
    g = None if g is None else chunking.pad_axes(g, {1: even})
    if segments is not None:
        segments = jnp.pad(segments, ((0, 0), (0, even - length)), mode="edge")
    pieces = _pieces(even, *q.shape[2:]) if sequence_pieces is None else sequence_pieces
    options = _Options(scale, pieces, saves(residuals, key_size))
    output, final_state = _delta_rule(q, k, v, beta, g, initial_state, segments, options)
    return output[:, :length, :, :value_size], final_state[:, :, :key_size, :value_size]
