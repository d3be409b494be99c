# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The Hopper kernels as one differentiable function; residuals are the inputs.

A custom_vjp: kernels have no forward mode and no second order; "xla" has both.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from pallas_kernels.short_conv import kernel, kernel_gradients


def short_conv_kernels(
    x: Float[Array, "B T D"],
    weight: Float[Array, "W D"],
    segments: Int[Array, "B T"] | None,
    *,
    activation: str,
    norm_size: int | None,
    norm_eps: float,
    stretch: int | None = None,
    interpret=None,
) -> Float[Array, "B T D"]:
    """`short_conv` for what `kernel_support` takes; `stretch` and `interpret` are for tests."""
    if x.size == 0:
        return x
    channels = x.shape[-1]
    size = norm_size or 128
    groups = channels // size
    options = kernel.Options(activation == "silu", None if norm_size is None else norm_eps)
    run = _differentiable(options, stretch, interpret)
    x = x.reshape(*x.shape[:2], groups, size)
    y = run(x, weight.reshape(-1, groups, size).astype(jnp.float32), segments)
    return y.reshape(*y.shape[:2], channels)


def _counts(segments: Int[Array, "B T"], past: int, how: kernel.Cut) -> Int[Array, "B Pieces R H"]:
    """How many of the `past` tokens before each one are of its segment, as programs read them."""
    length = segments.shape[1]
    follows = jnp.pad(segments[:, 1:] == segments[:, :-1], ((0, 0), (past, 0)))
    count, all_follow = 0, True
    for j in range(past):  # of the j tokens before, each of the segment of the one after it
        all_follow = all_follow & follows[:, past - 1 - j : past - 1 - j + length]
        count = count + all_follow.astype(jnp.int32)
    pieces, stretch = how.pieces(length), how.stretch
    token = np.arange(pieces)[:, None, None] * stretch
    token = token + np.arange(stretch + past)[:, None]  # a stretch's, and those it waits for
    token = token.repeat(how.heads, axis=2)
    return jnp.take(count, np.minimum(token, length - 1), axis=1, mode="clip")


def _differentiable(options: kernel.Options, stretch: int | None, interpret):
    def call(run, programs, arrays, weight, segments):
        how = kernel.cut(arrays[0].shape, programs[segments is not None], stretch=stretch)
        past = weight.shape[0] - 1
        counts = None if segments is None or past == 0 else _counts(segments, past, how)
        return run(*arrays, weight, counts, options=options, how=how, interpret=interpret)

    @jax.custom_vjp
    def run(x, weight, segments):
        return call(kernel.forward, kernel.PROGRAMS, [x], weight, segments)

    def forward(x, weight, segments):
        return run(x, weight, segments), (x, weight, segments)

    def backward(residuals, dy):
        x, weight, segments = residuals
        gradients, programs = kernel_gradients.gradients, kernel_gradients.PROGRAMS
        dx, dweights = call(gradients, programs, [x, dy], weight, segments)
        return dx, jnp.sum(dweights, axis=(0, 1)), None

    run.defvjp(forward, backward)
    return run
