# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""What the Triton kernels take, and their tile sizes. Apart from them: asking imports no Triton."""

from pallas_kernels._common import triton_device
from pallas_kernels._common.triton_device import Tile

KEY_SIZES = (64, 128, 256)  # others are padded to the next
VALUE_BLOCK = 64  # values are padded to a multiple
MAX_CHUNKS = 65535  # the second axis of a grid


def chunk_tokens(itemsize: int) -> int:
    """Tokens of a chunk; tiles of 4-byte numbers would not fit otherwise."""
    return 64 if itemsize == 2 else 32


# Tiles by a kernel's name that take the place of `tile`'s, of programs traced afterwards.
OVERRIDES: dict[str, Tile] = {}


def tile(kernel: str, key_size: int, itemsize: int, decay: str) -> Tile:
    """The tile of a kernel: `kernel` is its name without "_kernel", `decay` "none", "head" or
    "channel". Chosen by compiling (registers, spills and shared memory: `make aot`)."""
    if kernel in OVERRIDES:
        return OVERRIDES[kernel]
    wide, single, channel = key_size > 128, itemsize == 4, decay == "channel"
    return {
        "prepare": Tile(32 if channel else 64, 0, 4, 1),
        "pass": Tile(0, 32 if wide or single else 64, 8 if wide else 4, 1 if single else 2),
        "read": Tile(64, 64, 4, 1 if single else 2),
        "gradients": Tile(64, 32, 8, 1) if single else Tile(32 if channel else 64, 64, 4, 1),
    }[kernel]


def unsupported(q, k, v, g, initial_state, segments, *, scale, chunk_size) -> str | None:
    """Why the kernels cannot take these arguments here, or None."""
    del k, v, g, initial_state, segments, scale, chunk_size  # any will do
    reason = triton_device.unavailable(q.dtype)
    if reason is not None:
        return reason
    if q.shape[-1] > max(KEY_SIZES):
        return f"the kernels take K <= {max(KEY_SIZES)}, got {q.shape[-1]}"
    longest = MAX_CHUNKS * chunk_tokens(q.dtype.itemsize)
    if q.shape[1] > longest:
        return f"the kernels take T <= {longest}, got {q.shape[1]}"
    return None
