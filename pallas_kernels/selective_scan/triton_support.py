# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""What the Triton kernels of the selective scan take, and their sizes. Imports no Triton."""

from pallas_kernels._common import chunking, triton_device
from pallas_kernels._common.triton_device import Tile

STATE_SIZES = (16, 32, 64)  # others are padded to the next
NUMBERS = 512  # of a program's state: 16 a thread of a warp
TOKENS = 6  # at a time; one state is kept so often for the backward pass
# Programs that fill a GPU of 132 multiprocessors with all that fit on one, eight of the backward
# pass. With fewer, rows are cut into pieces of at least so many tokens.
ENOUGH_PROGRAMS = 1024
SHORTEST_PIECE = 128
MAX_PROGRAMS = 2**31 - 1  # the first axis of a grid
TILE = Tile(0, 0, 1, 1)


def padded_states(size: int) -> int:
    """N that a state has in the kernels."""
    return next(n for n in STATE_SIZES if n >= size)


def channels(size: int) -> int:
    """Channels of a program for `size` of `padded_states`."""
    return NUMBERS // size


def pieces(batch: int, length: int, width: int, states: int) -> int:
    """Into how many equal pieces every row is cut, a power of two that divides `length`."""
    programs = batch * chunking.num_chunks(width, channels(states))
    count = 1
    while (
        count * programs < ENOUGH_PROGRAMS
        and length % (2 * count) == 0
        and length // (2 * count) >= SHORTEST_PIECE
    ):
        count *= 2
    return count


def unsupported(x, dt, a, b, c, initial_state, segments, *, chunk_size) -> str | None:
    """Why the kernels cannot take these arguments here, or None."""
    del dt, b, c, initial_state, segments, chunk_size  # any will do
    reason = triton_device.unavailable(x.dtype)
    if reason is not None:
        return reason
    states, width = a.shape
    if states > max(STATE_SIZES):
        return f"the kernels take N <= {max(STATE_SIZES)}, got {states}"
    programs = x.shape[0] * chunking.num_chunks(width, channels(padded_states(states)))
    if programs > MAX_PROGRAMS:
        return f"the kernels take B D N <= {MAX_PROGRAMS * NUMBERS}, got {x.shape[0]} rows"
    return None
