# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""What the Hopper kernels take. Apart from them, so that asking does not import Mosaic GPU."""

import jax
import jax.numpy as jnp

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
