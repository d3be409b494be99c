# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""What the Hopper kernels take. Apart from them, so that asking does not import Mosaic GPU."""

import jax
import jax.numpy as jnp

GROUP_SIZES = (64, 128, 256)
WIDTHS = (1, 2, 3, 4)
MIN_LENGTH = 16
ELEMENTS = 1024  # channels that a program takes


def unsupported(x, weight, segments, *, activation, norm_size, norm_eps) -> str | None:
    """Why the kernels cannot take these arguments here, or None."""
    del segments, activation, norm_eps
    device = jax.devices()[0]
    if device.platform != "gpu" or getattr(device, "compute_capability", None) != "9.0":
        return f"the kernels need a Hopper GPU (compute capability 9.0), this is {device}"
    if jnp.dtype(x.dtype).name not in ("bfloat16", "float16"):
        return f"the kernels take bfloat16 and float16, got {x.dtype}"
    if weight.shape[0] not in WIDTHS:
        return f"the kernels take widths in {WIDTHS}, got {weight.shape[0]}"
    if x.shape[-1] % ELEMENTS:
        return f"the kernels take D a multiple of {ELEMENTS}, got {x.shape[-1]}"
    if norm_size is not None and norm_size not in GROUP_SIZES:
        return f"the kernels take norm_size in {GROUP_SIZES}, got {norm_size}"
    if x.shape[1] < MIN_LENGTH:
        return f"the kernels take T >= {MIN_LENGTH}, got {x.shape[1]}"
    return None
