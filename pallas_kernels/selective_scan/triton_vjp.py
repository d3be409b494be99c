# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The Triton kernels of the selective scan as one differentiable function.

    forward     forward with outputs
    backward    forward with the states of every few tokens, backward

With few rows and channels, programs would be too few for a GPU. Then rows are cut into pieces, as
if they were rows: the state that enters a piece follows from what each makes of an empty one, and
exp(A sum(dt)), before; likewise the cotangents, from behind.

Residuals are the inputs, and the states that enter pieces. A custom_vjp: no forward mode, no second
order.
"""

import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from pallas_kernels._common import chunking, names, triton_device, triton_launch
from pallas_kernels._common.segments import only
from pallas_kernels.selective_scan import triton_support
from pallas_kernels.selective_scan.triton_scan import (
    backward_kernel,
    cotangent_kernel,
    forward_kernel,
)


def _call(kernel, x, a, *arguments, out, capability, **constants):
    """A kernel with the sizes of x [B, T, D] and a [G, N, D]: one A for every B / G rows."""
    batch, length, width = x.shape
    groups, states, _ = a.shape
    channels = triton_support.channels(states)
    return triton_launch.launch(
        kernel,
        *arguments,
        length,
        batch // groups,
        out=out,
        grid=(batch * chunking.num_chunks(width, channels),),
        tile=triton_support.TILE,
        capability=capability,
        N=states,
        D=width,
        BD=channels,
        BT=triton_support.TOKENS,
        **constants,
    )


def _forward_call(x, dt, a, b, c, state, starts, *, output, save, capability):
    """(y, states before every TOKENS tokens, final state); what was not asked for is empty."""
    blocks = chunking.num_chunks(x.shape[1], triton_support.TOKENS)
    nothing = jax.ShapeDtypeStruct((0,), x.dtype)
    states = jax.ShapeDtypeStruct((x.shape[0], blocks, *a.shape[1:]), state.dtype)
    return _call(
        forward_kernel,
        x,
        a,
        # Without segments a pointer that is not followed.
        *(x, dt, a, b, c, x if starts is None else starts, state),
        out=[x if output else nothing, states if save else nothing, state],
        capability=capability,
        SEGMENTS=starts is not None,
        OUTPUT=output,
        SAVE=save,
    )


def _cut(x, pieces):
    """[B, T, ...] -> [B pieces, T / pieces, ...]."""
    return None if x is None else x.reshape(x.shape[0] * pieces, -1, *x.shape[2:])


def _through_pieces(state, dt, a, starts, additions, pieces, *, reverse=False):
    """What enters every piece [B pieces, N, D] where state -> exp(A sum(dt)) state + addition
    through them; in reverse from behind."""
    batch = state.shape[0]
    elapsed = dt.sum(axis=1)[:, None]
    crosses = jnp.exp(jnp.repeat(a, len(elapsed) // len(a), axis=0) * elapsed)
    if starts is not None:
        crosses = only(crosses, (starts == 0).all(axis=1)[:, None, None])

    def piece(state, inputs):
        crosses, addition = inputs
        return crosses * state + addition, state

    by_piece = (
        jnp.moveaxis(y.reshape(batch, pieces, *y.shape[1:]), 1, 0) for y in (crosses, additions)
    )
    _, entering = jax.lax.scan(piece, state, tuple(by_piece), reverse=reverse)
    return jnp.moveaxis(entering, 0, 1).reshape(additions.shape)


def _run(x, dt, a, b, c, state, starts, *, capability):
    """(y, final state, what enters every piece [B, pieces, N, D])."""
    batch, length, width = x.shape
    pieces = triton_support.pieces(batch, length, width, a.shape[1])
    whole = x.shape
    x, dt, b, c, starts = (_cut(y, pieces) for y in (x, dt, b, c, starts))
    entering = state
    if pieces > 1:
        empty = jnp.zeros((len(x), *state.shape[1:]), state.dtype)
        _, _, written = _forward_call(
            x, dt, a, b, c, empty, starts, output=False, save=False, capability=capability
        )
        entering = _through_pieces(state, dt, a, starts, written, pieces)
    y, _, leaving = _forward_call(
        x, dt, a, b, c, entering, starts, output=True, save=False, capability=capability
    )
    leaving, entering = (y.reshape(batch, pieces, *state.shape[1:]) for y in (leaving, entering))
    return y.reshape(whole), leaving[:, -1], entering


def _gradients(x, dt, a, b, c, starts, entering, dy, dfinal_state, *, capability):
    """Of x, dt, a, b, c and the initial state."""
    batch, length, width = x.shape
    pieces = entering.shape[1]
    cut = tuple(_cut(y, pieces) for y in (x, dt, b, c, starts, dy))
    x_, dt_, b_, c_, starts_, dy_ = cut
    groups, states, _ = a.shape
    entering = entering.reshape(len(x_), states, width)
    ids = x_ if starts is None else starts_  # without segments a pointer that is not followed
    options = {"capability": capability, "SEGMENTS": starts is not None}
    leaving = dfinal_state
    if pieces > 1:
        (coming,) = _call(
            cotangent_kernel, x_, a, *(dt_, a, c_, ids, dy_), out=[entering], **options
        )
        leaving = _through_pieces(dfinal_state, dt_, a, starts_, coming, pieces, reverse=True)
    _, kept, _ = _forward_call(
        x_, dt_, a, b_, c_, entering, starts_, output=False, save=True, capability=capability
    )
    blocks = chunking.num_chunks(width, triton_support.channels(states))
    part = jax.ShapeDtypeStruct((len(x_), blocks, x_.shape[1], states), dt.dtype)
    dx, ddt, da, db, dc, dstate = _call(
        backward_kernel,
        x_,
        a,
        *(x_, dt_, a, b_, c_, ids, kept, dy_, leaving),
        out=[x_, dt_, entering, part, part, entering],
        **options,
    )
    da = da.reshape(groups, -1, states, width).sum(axis=1)
    db, dc = (y.sum(axis=1).astype(b.dtype).reshape(b.shape) for y in (db, dc))
    dstate = dstate.reshape(batch, pieces, states, width)[:, 0]
    return dx.reshape(x.shape), ddt.reshape(x.shape), da, db, dc, dstate


@functools.partial(jax.custom_vjp, nondiff_argnums=(7,))
def _scan(*args):
    return _forward(*args)[0]


def _forward(*args):
    *args, capability = args
    run = triton_launch.batched(functools.partial(_run, capability=capability))
    y, final_state, entering = run(*args)
    return (y, final_state), (args, checkpoint_name(entering, names.RESIDUALS))


def _backward(capability, residuals, cotangents):
    (x, dt, a, b, c, _, starts), entering = residuals
    run = triton_launch.batched(functools.partial(_gradients, capability=capability))
    return *run(x, dt, a, b, c, starts, entering, *cotangents), None


_scan.defvjp(_forward, _backward)


def selective_scan_triton(
    x: Float[Array, "B T D"],
    dt: Float[Array, "B T D"],
    a: Float[Array, "N D"],
    b: Float[Array, "B T N"],
    c: Float[Array, "B T N"],
    initial_state: Float[Array, "B N D"],
    segments: Int[Array, "B T"] | None,
    *,
    capability: int | None = None,
) -> tuple[Float[Array, "B T D"], Float[Array, "B N D"]]:
    """The selective scan in Triton; what it takes, triton_support.py says.

    `capability` is the GPU's compute capability, 80 for 8.0; that of the first device by default.
    """
    if 0 in x.shape or 0 in a.shape:
        return jnp.zeros_like(x), initial_state
    states = a.shape[0]
    wide = triton_support.padded_states(states)
    b, c = (chunking.pad_axes(y, {2: wide}) for y in (b, c))
    initial_state = chunking.pad_axes(initial_state, {1: wide})
    # Of one row that all share: under vmap every model brings its own.
    a = chunking.pad_axes(a, {0: wide})[None]
    starts = None
    if segments is not None:
        starts = (jnp.diff(segments, axis=1, prepend=0) != 0).astype(jnp.int32)
    capability = capability or triton_device.capability()
    y, final_state = _scan(x, dt, a, b, c, initial_state, starts, capability)
    return y, final_state[:, :states]
