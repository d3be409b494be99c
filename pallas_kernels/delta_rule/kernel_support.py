# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""What the Hopper kernels take. Apart from them, so that asking does not import Mosaic GPU."""

import jax
import jax.numpy as jnp

KEY_SIZES = (64, 128, 256)  # others are padded to the next
WIDE = 128  # keys wider than this are taken in steps
MAX_VALUE_SIZE = 256
CHUNK = 64
# With no more heads than this (times batch), programs are few and a chunk's latency is all: tiles
# come from `prepare` and every block of values gets its own program.
FEW_HEADS = 66


def saves(residuals: str, key_size: int) -> bool:
    """Whether what "save" asks for is kept. Not with wide keys: a forward pass that also stores
    states has shared memory for one stage only, and computing them again is faster."""
    return residuals == "save" and key_size <= WIDE


def residual_bytes(
    batch: int, length: int, heads: int, key_size: int, value_size: int, residuals: str
) -> int:
    """What the kernels keep for the backward pass beside their inputs, but for what is small.

    Tiles of few or wide heads, three of C x C 16-bit numbers a chunk; with "save" of all heads, and
    D and the chunks' states.
    """
    save = saves(residuals, key_size)
    tiles = save or batch * heads <= FEW_HEADS or key_size > WIDE
    a_token = 6 * CHUNK * tiles + save * (2 * value_size + 2 * key_size * value_size // CHUNK)
    return batch * length * heads * a_token


def unsupported(
    q,
    k,
    v,
    beta,
    initial_state,
    segments,
    *,
    scale,
    chunk_size,
    sequence_pieces,
    residuals,
) -> str | None:
    """Why the kernels cannot take these arguments here, or None."""
    del k, beta, initial_state, segments, chunk_size, residuals  # any will do
    device = jax.devices()[0]
    if device.platform != "gpu" or getattr(device, "compute_capability", None) != "9.0":
        return f"the kernels need a Hopper GPU (compute capability 9.0), this is {device}"
    if jnp.dtype(q.dtype).name not in ("bfloat16", "float16"):
        return f"the kernels take bfloat16 and float16, got {q.dtype}"
    if q.shape[-1] > max(KEY_SIZES):
        return f"the kernels take K <= {max(KEY_SIZES)}, got {q.shape[-1]}"
    if v.shape[-1] > MAX_VALUE_SIZE:
        return f"the kernels take V <= {MAX_VALUE_SIZE}, got {v.shape[-1]}"
    if scale == 0:
        return "the kernels divide by scale, got 0"
    pieces = sequence_pieces or 1
    if pieces > 1 and q.shape[1] % (pieces * CHUNK) != 0:
        return (
            f"the kernels cut rows at multiples of {CHUNK} tokens: T = {q.shape[1]} does not make "
            f"{pieces} equal pieces"
        )
    return None
