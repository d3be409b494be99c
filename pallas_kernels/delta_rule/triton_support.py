# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""What the Triton kernels take, and their tile sizes. Apart from them: asking imports no Triton."""

import functools
import importlib.util
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pallas_kernels.delta_rule.kernel_support import FEW_HEADS, KEY_SIZES, WIDE

# Compute capability: bytes of shared memory a block may use.
SHARED_MEMORY = {80: 166912, 86: 101376, 89: 101376, 90: 232448}
INSTALL = "pip install jax-triton==0.3.1 triton==3.6.0"
MAX_CHUNKS = 65535  # the second axis of a grid
VALUE_BLOCK = 64  # values are padded to a multiple
# Up to as many tokens are taken one by one: as long as a chunk's preparation takes.
FEW_TOKENS = 16


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


def chunk_tokens(itemsize: int) -> int:
    """Tokens of a chunk; tiles of 4-byte numbers would not fit otherwise."""
    return 64 if itemsize == 2 else 32


def outputs_on_the_way(batch_heads: int, key_size: int, itemsize: int) -> bool:
    """Whether the serial pass makes the outputs too: with many heads, programs enough fill the GPU
    and memory is saved the states; with few, the chain from chunk to chunk must be short. Wide keys
    and 4-byte numbers leave no registers for it."""
    return batch_heads > FEW_HEADS and key_size <= WIDE and itemsize == 2


# Tiles by a kernel's name that take the place of `tile`'s, of programs traced afterwards.
OVERRIDES: dict[str, Tile] = {}


def tile(kernel: str, key_size: int, itemsize: int, capability: int, few: bool) -> Tile:
    """The tile of a kernel: `kernel` is its name without "_kernel", `few` that heads are FEW_HEADS.

    16-bit numbers of 128 or fewer a head and many heads: the fastest of those that
    `experiments.benchmarks.tune_triton` timed on an H200. Others are chosen by compiling
    (registers, spills and shared memory: `make aot`).
    """
    wide, single, hopper = key_size > WIDE, itemsize == 4, capability >= 90
    if kernel in OVERRIDES:
        return OVERRIDES[kernel]
    if single:
        serial = Tile(0, 16, 8, 1)
    elif wide:
        serial = Tile(0, 32, 8, 1)
    else:
        serial = Tile(0, 64, 4, 1) if hopper and not few else Tile(0, 32, 4, 2)
    if single:
        gradients = Tile(64, 32, 8, 1)
    elif hopper:
        gradients = Tile(min(key_size, 128), 64, 4, 1)
    else:  # that spills 600 bytes before Hopper
        gradients = Tile(min(key_size, 128), 32, 8, 2)
    return {
        "correction": Tile(64, 0, 1, 1),
        "prepare": Tile(64, 64, 4, 1),
        "forward": serial,
        # With 4 warps it spills before Hopper.
        "reverse": serial if hopper and not wide else serial._replace(warps=8),
        "output": Tile(64, 64, 4, 2),
        "gradients": gradients,
        "recurrent": Tile(0, 8 if wide else 16, 1, 1),
    }[kernel]


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


def wrong_dtype(dtype: jax.typing.DTypeLike) -> str | None:
    """Why no Triton kernel takes numbers of `dtype`, or None."""
    if jnp.dtype(dtype).name in ("bfloat16", "float16", "float32"):
        return None
    return f"the kernels take bfloat16, float16 and float32, got {jnp.dtype(dtype)}"


def unsupported(
    q, k, v, beta, initial_state, segments, *, scale, chunk_size, sequence_pieces, residuals
) -> str | None:
    """Why the kernels cannot take these arguments here, or None."""
    del k, beta, initial_state, segments, scale, chunk_size, residuals  # any will do
    if reason := no_device():
        return reason
    if reason := wrong_dtype(q.dtype):
        return reason
    if q.shape[-1] > max(KEY_SIZES):
        return f"the kernels take K <= {max(KEY_SIZES)}, got {q.shape[-1]}"
    if (sequence_pieces or 1) > 1:
        return f"the kernels do not cut rows, got sequence_pieces={sequence_pieces}"
    longest = MAX_CHUNKS * chunk_tokens(q.dtype.itemsize)
    if q.shape[1] > longest:
        return f"the kernels take T <= {longest}, got {q.shape[1]}"
    return None


def avoided(*args, **options) -> str | None:
    """Why the kernels run here only if asked for: Hopper GPUs have kernels of their own."""
    del args, options  # any will do
    if capability() == 90:
        return "on compute capability 9.0 only if asked for by name"
    return None
