# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Where Triton kernels run: GPUs, what must be installed. Asking imports no Triton."""

import functools
import importlib.util
from typing import NamedTuple

import jax
import jax.numpy as jnp

# Compute capability: bytes of shared memory a block may use.
SHARED_MEMORY = {80: 166912, 86: 101376, 89: 101376, 90: 232448}
INSTALL = "pip install jax-triton==0.3.1 triton==3.6.0"
DTYPES = ("bfloat16", "float16", "float32")


class Tile(NamedTuple):
    """Sizes of one kernel's program.

    Attributes:
        block_k, block_v: columns of keys and of values at a time.
        warps, stages: Triton's num_warps; chunks loaded ahead and the one at work.
    """

    block_k: int
    block_v: int
    warps: int
    stages: int


@functools.cache
def installed() -> bool:
    """Whether jax-triton and Triton are there; neither is imported."""
    return all(importlib.util.find_spec(name) for name in ("jax_triton", "triton"))


def capability() -> int | None:
    """Of the first device: 80 for "8.0"; None where it is no NVIDIA GPU."""
    found = getattr(jax.devices()[0], "compute_capability", None)
    major, _, minor = (found or "").partition(".")
    return int(major + minor) if major.isdecimal() and minor.isdecimal() else None


def no_device() -> str | None:
    """Why no Triton kernel can run here, whatever its arguments, or None."""
    if capability() not in SHARED_MEMORY:
        wanted = ", ".join(f"{c / 10}" for c in SHARED_MEMORY)
        found = jax.devices()[0]
        return f"the kernels need an NVIDIA GPU of compute capability {wanted}, this is {found}"
    if not installed():
        return f"the kernels need jax-triton, which is not installed: {INSTALL}"
    return None


def unavailable(dtype: jax.typing.DTypeLike) -> str | None:
    """Why no Triton kernel can run here on inputs of `dtype`, or None."""
    if reason := no_device():
        return reason
    if jnp.dtype(dtype).name not in DTYPES:
        return f"the kernels take bfloat16, float16 and float32, got {dtype}"
    return None
