# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The Hopper kernels as one differentiable function: padding, order of kernels, residuals.

Residuals are the inputs and nothing else, as in vjp.py; inverses, scores and chunk states are
recomputed. A custom_vjp: kernels have no forward mode and no second order; "xla" has both.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pallas_kernels._common import chunking
from pallas_kernels.delta_rule import kernel_gradients, kernel_prepare, kernel_serial
from pallas_kernels.delta_rule.kernel_prepare import CHUNK

KEY_SIZES = (64, 128)
MAX_VALUE_SIZE = 256


def unsupported(q, k, v, beta, initial_state, segments, *, scale, chunk_size) -> str | None:
    """Why the kernels cannot take these arguments here, or None."""
    del k, beta, initial_state, chunk_size  # the kernels choose their own chunks
    device = jax.devices()[0]
    if device.platform != "gpu" or getattr(device, "compute_capability", None) != "9.0":
        return f"the kernels need a Hopper GPU (compute capability 9.0), this is {device}"
    if jnp.dtype(q.dtype).name not in ("bfloat16", "float16"):
        return f"the kernels take bfloat16 and float16, got {q.dtype}"
    if q.shape[-1] > max(KEY_SIZES):
        return f"the kernels take K <= {max(KEY_SIZES)}, got {q.shape[-1]}"
    if v.shape[-1] > MAX_VALUE_SIZE:
        return f"the kernels take V <= {MAX_VALUE_SIZE}, got {v.shape[-1]}"
    if segments is not None:
        return "the kernels do not take segment_ids yet"
    if scale == 0:
        return "the kernels divide by scale, got 0"
    return None


def _pad(x: jax.Array, sizes: dict[int, int]) -> jax.Array:
    """Zero-pads the given axes to the given sizes."""
    widths = [(0, sizes.get(axis, size) - size) for axis, size in enumerate(x.shape)]
    return jnp.pad(x, widths) if any(w != (0, 0) for w in widths) else x


def _pad_beta(beta: Float[Array, "B T H"]) -> Float[Array, "B H T2"]:
    length = chunking.num_chunks(beta.shape[1], CHUNK) * CHUNK
    return jnp.swapaxes(_pad(beta.astype(jnp.float32), {1: length}), 1, 2)


def _tiles(q, k, beta):
    """Inverses and scores, where the serial kernel does not make them on its way."""
    few = q.shape[0] * q.shape[2] <= kernel_serial.FEW_HEADS
    return kernel_prepare.prepare(q, k, beta) if few else None


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _delta_rule(q, k, v, beta, initial_state, scale):
    beta = _pad_beta(beta)
    tiles = _tiles(q, k, beta)
    return kernel_serial.forward(q, k, v, beta, tiles, initial_state, scale=scale)


def _forward(q, k, v, beta, initial_state, scale):
    return _delta_rule(q, k, v, beta, initial_state, scale), (q, k, v, beta, initial_state)


def _backward(scale, residuals, cotangents):
    q, k, v, beta, initial_state = residuals
    do, dfinal_state = cotangents
    padded = _pad_beta(beta)
    u, states, tiles = kernel_serial.states(q, k, v, padded, _tiles(q, k, padded), initial_state)
    dx, dstates, dinitial_state = kernel_serial.cotangents(
        q, k, do, padded, tiles, dfinal_state / scale
    )
    dq, dk, dv, dbeta = kernel_gradients.gradients(
        q, k, v, padded, do, u, dx, states, dstates, scale=scale
    )
    dbeta = jnp.swapaxes(dbeta, 1, 2)[:, : q.shape[1]].astype(beta.dtype)
    return dq, dk, dv, dbeta, scale * dinitial_state


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
) -> tuple[Float[Array, "B T H V"], Float[Array, "B H K V"]]:
    """The delta rule on a Hopper GPU; what it takes, `unsupported` says."""
    del segments, chunk_size
    if 0 in v.shape or 0 in q.shape:
        return jnp.zeros_like(v), initial_state
    key_size, value_size = q.shape[-1], v.shape[-1]
    wide_key = next(size for size in KEY_SIZES if size >= key_size)
    wide_value = chunking.num_chunks(value_size, 64) * 64
    # Loads past T read zeros, but the copy engine wants whole rows of its 8-row tiles.
    length = v.shape[1]
    even = chunking.num_chunks(length, 8) * 8
    q, k = (_pad(x, {1: even, 3: wide_key}) for x in (q, k))
    v, beta = _pad(v, {1: even, 3: wide_value}), _pad(beta, {1: even})
    initial_state = _pad(initial_state, {2: wide_key, 3: wide_value})
    output, final_state = _delta_rule(q, k, v, beta, initial_state, scale)
    return output[:, :length, :, :value_size], final_state[:, :, :key_size, :value_size]
