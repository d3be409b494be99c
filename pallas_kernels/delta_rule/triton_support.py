# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""What the Triton kernels take, and their tile sizes. Apart from them: asking imports no Triton."""

from pallas_kernels._common import triton_device
from pallas_kernels._common.triton_device import Tile
from pallas_kernels.delta_rule.kernel_support import FEW_HEADS, KEY_SIZES, WIDE

MAX_CHUNKS = 65535  # the second axis of a grid
VALUE_BLOCK = 64  # values are padded to a multiple
# Up to as many tokens are taken one by one: as long as a chunk's preparation takes.
FEW_TOKENS = 16


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


def unsupported(
    q, k, v, beta, initial_state, segments, *, scale, chunk_size, sequence_pieces, residuals
) -> str | None:
    """Why the kernels cannot take these arguments here, or None."""
    del k, beta, initial_state, segments, scale, chunk_size, residuals  # any will do
    reason = triton_device.unavailable(q.dtype)
    if reason is not None:
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
    if triton_device.capability() == 90:
        return "on compute capability 9.0 only if asked for by name"
    return None
