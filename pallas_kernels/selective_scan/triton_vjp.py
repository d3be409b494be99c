# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The Triton kernels of the selective scan as one differentiable function.

    forward     forward with outputs
    backward    forward with the states of every few tokens, backward

Residuals are the inputs. A custom_vjp: no forward mode, no second order.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pallas_kernels._common import chunking, triton_device, triton_launch
from pallas_kernels.selective_scan import triton_support
from pallas_kernels.selective_scan.triton_scan import backward_kernel, forward_kernel


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


def _run(x, dt, a, b, c, state, starts, *, capability, save=False):
    """(y, final state), or with `save` the states before every TOKENS tokens."""
    blocks = chunking.num_chunks(x.shape[1], triton_support.TOKENS)
    nothing = jax.ShapeDtypeStruct((0,), x.dtype)
    states = jax.ShapeDtypeStruct((x.shape[0], blocks, *a.shape[1:]), state.dtype)
    y, states, final_state = _call(
        forward_kernel,
        x,
        a,
        # Without segments a pointer that is not followed.
        *(x, dt, a, b, c, x if starts is None else starts, state),
        out=[nothing if save else x, states if save else nothing, state],
        capability=capability,
        SEGMENTS=starts is not None,
        OUTPUT=not save,
        SAVE=save,
    )
    return states if save else (y, final_state)


def _gradients(x, dt, a, b, c, state, starts, dy, dfinal_state, *, capability):
    """Of x, dt, a, b, c and the initial state."""
    batch, length, width = x.shape
    groups, states, _ = a.shape
    blocks = chunking.num_chunks(width, triton_support.channels(states))
    part = jax.ShapeDtypeStruct((batch, blocks, length, states), dt.dtype)
    kept = _run(x, dt, a, b, c, state, starts, capability=capability, save=True)
    dx, ddt, da, db, dc, dstate = _call(
        backward_kernel,
        x,
        a,
        *(x, dt, a, b, c, x if starts is None else starts, kept, dy, dfinal_state),
        out=[x, dt, state, part, part, state],
        capability=capability,
        SEGMENTS=starts is not None,
    )
    da = da.reshape(groups, batch // groups, states, width).sum(axis=1)
    db, dc = (y.sum(axis=1).astype(b.dtype) for y in (db, dc))
    return dx, ddt, da, db, dc, dstate


@functools.partial(jax.custom_vjp, nondiff_argnums=(7,))
def _scan(x, dt, a, b, c, state, starts, capability):
    run = triton_launch.batched(functools.partial(_run, capability=capability))
    return run(x, dt, a, b, c, state, starts)


def _forward(*args):
    *args, capability = args
    return _scan(*args, capability), args


def _backward(capability, args, cotangents):
    run = triton_launch.batched(functools.partial(_gradients, capability=capability))
    return *run(*args, *cotangents), None


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
