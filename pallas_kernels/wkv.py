# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""RWKV-4's weighted average of values: exponential weights that decay with distance, by channel.

Numerator and denominator are sums of exponentials of any size, so both are kept divided by
exp(maximum), the maximum being of the exponents in them. Such triples compose associatively: so
chunks are summed side by side, each from nothing, and what enters them is added afterwards. That is
C + T / C dependent steps for T, in a program whose size does not depend on either, where
`jax.lax.associative_scan` would unroll its levels.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pallas_kernels._common import checks, chunking
from pallas_kernels._common.precision import state_dtype
from pallas_kernels._common.segments import number_segments
from pallas_kernels._common.varying import vary_alike

NOTHING = -1e30  # the exponent of an empty sum; finite, so that differences are numbers


class WKVState(NamedTuple):
    """Sums over the tokens before, divided by exp(maximum); float32 (float64 for float64 inputs).

    Attributes:
        maximum: of the exponents, [B, D].
        numerator, denominator: [B, D].
    """

    maximum: jax.Array
    numerator: jax.Array
    denominator: jax.Array


def wkv_empty_state(batch: int, channels: int, input_dtype: jax.typing.DTypeLike) -> WKVState:
    """No tokens yet, for inputs of `input_dtype`."""
    zeros = jnp.zeros((batch, channels), state_dtype(input_dtype))
    return WKVState(jnp.full_like(zeros, NOTHING), zeros, zeros)


def wkv(
    k: Float[Array, "B T D"],
    v: Float[Array, "B T D"],
    w: Float[Array, " D"],
    u: Float[Array, " D"],
    *,
    initial_state: WKVState | None = None,
    segment_ids: Int[Array, "B T"] | None = None,
    chunk_size: int = 64,
) -> tuple[Float[Array, "B T D"], WKVState]:
    """Averages the values of the tokens before and of the token itself, channel by channel:

        y_t = (sum_{i<t} exp(k_i - (t-1-i) w) v_i + exp(u + k_t) v_t) / (the same without v)

    Args:
        k, v: exponents and values [B, T, D] of one of float32, bfloat16, float16, float64. T >= 0.
        w: decay a token, [D], >= 0 (not checked: a value), float32 (float64 for float64 inputs).
        u: what is added to the current token's exponent, like w.
        initial_state: where to continue; by default there is nothing before.
        segment_ids: [B, T] integers; a change of id is a boundary that nothing crosses. The initial
            state belongs to the first segment, the final one to the last.
        chunk_size: tokens a chunk, 16, 32, 64 or 128. Changes speed and rounding only.
    Returns:
        (y [B, T, D] in v.dtype, the state after the last token).
    Raises:
        ValueError, TypeError: a shape, dtype or chunk_size is not as above; names the argument.
        NotImplementedError: k is spread over explicit mesh axes.
    Numerics: everything in w's dtype, no exponent is positive, so any k is safe. RMS error against
        the recurrence in float64 below 1e-5 for float32, 1e-2 for bfloat16, outputs and every
        gradient (tests/pallas_kernels/test_wkv.py); with slow decays the state drifts, to 1.2e-5
        after 32,768 tokens and 3e-5 after a million (docs/reliability.md).
    Cost: about 30 T D operations. Gradients by autodiff, which keeps the inputs only.
    Source: Peng et al. 2023, arXiv:2305.13048, eq. 16 (wkv) and appendix D (the maximum).
    """
    sizes = _check("B T", k, v, w, u)
    checks.check_compiler_shards("k", k)
    if initial_state is None:
        initial_state = wkv_empty_state(sizes["B"], sizes["D"], v.dtype)
    _check_state("initial_state", initial_state, sizes, v)
    if segment_ids is not None:
        checks.check_segment_ids(segment_ids, sizes)
    checks.check_choice("chunk_size", chunk_size, chunking.CHUNK_SIZES)
    if k.shape[1] == 0:
        return v, initial_state
    args = vary_alike((k, v, w, u, initial_state, segment_ids))
    return _run(*args, chunk_size)


def wkv_step(
    state: WKVState,
    k: Float[Array, "B D"],
    v: Float[Array, "B D"],
    w: Float[Array, " D"],
    u: Float[Array, " D"],
) -> tuple[Float[Array, "B D"], WKVState]:
    """One token of `wkv`, for decoding: (y [B, D] in v.dtype, the new state).

    Raises:
        ValueError, TypeError: a shape or dtype is not as there; names the argument.
    """
    _check_state("state", state, _check("B", k, v, w, u), v)
    k, wide = (x.astype(w.dtype) for x in (k, v))
    y = _read(state, k, wide, u)
    own = WKVState(k, wide, jnp.ones_like(k))
    return y.astype(v.dtype), _add(_lose(state, w[None]), own)


def _check(axes: str, k, v, w, u) -> dict[str, int]:
    checks.check_rank("k", k, f"{axes} D")
    checks.check_float_dtype("k", k)
    sizes = dict(zip([*axes.split(), "D"], k.shape, strict=True))
    checks.check_shape("v", v, f"{axes} D", sizes)
    checks.check_same_dtype("v", v, "k", k)
    for name, x in (("w", w), ("u", u)):
        checks.check_shape(name, x, "D", sizes)
        checks.check_dtype(name, x, state_dtype(k.dtype))
    return sizes


def _check_state(name: str, state: WKVState, sizes: dict[str, int], v) -> None:
    if not isinstance(state, WKVState):
        raise TypeError(f"{name}: wanted a WKVState, got {type(state).__name__}")
    for field, x in state._asdict().items():
        checks.check_shape(f"{name}.{field}", x, "B D", sizes)
        checks.check_dtype(f"{name}.{field}", x, state_dtype(v.dtype))


def _add(x: WKVState, y: WKVState) -> WKVState:
    """The sums of both. What comes out of sums does not depend on the maximum they are divided by:
    so nothing is differentiated through it, and exponents get gradients through the factors."""
    maximum = jax.lax.stop_gradient(jnp.maximum(x.maximum, y.maximum))
    p, q = jnp.exp(x.maximum - maximum), jnp.exp(y.maximum - maximum)
    return WKVState(
        maximum, p * x.numerator + q * y.numerator, p * x.denominator + q * y.denominator
    )


def _lose(x: WKVState, loss: jax.Array) -> WKVState:
    """The sums times exp(-loss)."""
    return x._replace(maximum=x.maximum - loss)


def _read(before: WKVState, k, v, u):
    """y_t from the sums before it."""
    own = WKVState(k + u[(None,) * (k.ndim - 1)], v, jnp.ones_like(v))
    read = _add(before, own)
    return read.numerator / read.denominator


@functools.partial(jax.jit, static_argnums=6)
@functools.partial(jax.checkpoint, static_argnums=6)
def _run(k, v, w, u, initial_state, segment_ids, chunk_size):
    batch, length, channels = k.shape
    padded = chunking.num_chunks(length, chunk_size) * chunk_size
    # What a token's sums lose of those before it, as an exponent: at a boundary everything, which
    # no w reaches.
    losses = jnp.broadcast_to(jnp.minimum(w, -NOTHING / 2)[None, None], k.shape)
    if segment_ids is not None:
        starts = jnp.diff(number_segments(segment_ids), axis=1, prepend=0) != 0
        losses = jnp.where(starts[:, :, None], -NOTHING, losses)

    def in_chunks(x):
        x = chunking.split_heads(x[:, :, None], chunk_size)[:, :, 0]
        return jnp.moveaxis(x, 2, 0)  # [C, chunks, B, D]

    exponents = jnp.pad(  # padding adds nothing, and loses nothing
        k.astype(w.dtype), ((0, 0), (0, padded - length), (0, 0)), constant_values=NOTHING
    )
    k, values, losses = (in_chunks(x) for x in (exponents, v.astype(w.dtype), losses))

    @jax.checkpoint  # keeps the sums and not what makes them
    def token(sums, inputs):
        k, v, loss = inputs
        sums = _add(_lose(sums, loss), WKVState(k, v, jnp.ones_like(v)))
        return sums, sums

    nothing = WKVState(jnp.full_like(k[0], NOTHING), jnp.zeros_like(k[0]), jnp.zeros_like(k[0]))
    _, sums = jax.lax.scan(token, nothing, (k, values, losses))
    losses_so_far = jnp.cumsum(losses, axis=0)

    def chunk(state, inputs):
        loss, sums = inputs
        return _add(_lose(state, loss), sums), state

    last = jax.tree.map(lambda x: x[-1], (losses_so_far, sums))
    final_state, entering = jax.lax.scan(chunk, initial_state, last)
    entering = jax.tree.map(lambda x: x[None], entering)
    carried = jax.tree.map(lambda x: jnp.broadcast_to(x, k.shape), entering)
    after = _add(_lose(carried, losses_so_far), sums)
    before = jax.tree.map(lambda x, y: jnp.concatenate([x, y[:-1]]), entering, after)
    # A token reads the sums before it without its own loss, unless that is everything.
    erased = jnp.where(losses >= -NOTHING, losses, 0)
    y = _read(_lose(before, erased), k, values, u)
    y = jnp.transpose(y, (2, 1, 0, 3))
    return y.reshape(batch, padded, channels)[:, :length].astype(v.dtype), final_state
