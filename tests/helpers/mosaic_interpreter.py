# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Runs the kernel of all layers (pallas_kernels/decoding) in Mosaic's interpreter.

It runs the programs of a cluster side by side, so the kernel's programs are one, and what they
meet at is a barrier of clusters. It knows no registers: for what kernel_rows.py says of them its
definition stands here. Its clocks tell what is ordered whatever the timing (`raced`).
"""

import contextlib
import functools

import jax
import jax.experimental.pallas as pl
import jax.experimental.pallas.mosaic_gpu as plgpu
import jax.numpy as jnp
import pytest
from jax._src.pallas.mosaic_gpu.interpret import gpu_callbacks

from pallas_kernels.decoding import kernel_layers, kernel_program, kernel_rows


class ClusterMeeting(kernel_program.Meeting):
    """`kernel_program.Meeting`; one of a layer's can be left out. Brings [warpgroups, 64, 64] of
    shared memory along, for `add_product`."""

    left_out = None
    rows = None

    def __init__(self, programs, barrier, rows):
        del programs
        self.barrier, self.arrivals = barrier, 0
        ClusterMeeting.rows = rows

    def arrive(self):  # called five times, by the code of one layer
        self.arrivals += 1
        if self.arrivals != self.left_out:
            plgpu.barrier_arrive(self.barrier)

    def wait(self, number):
        if self.left_out is None:
            plgpu.barrier_wait(self.barrier)
            return
        met = (number - 1) % kernel_layers.MEETINGS + 1
        pl.when(met != self.left_out)(lambda: plgpu.barrier_wait(self.barrier))


def scratch(dtype):
    return (
        plgpu.ClusterBarrier(collective_axes=("g",), num_arrivals=1),
        plgpu.SMEM((4, kernel_rows.ROWS, kernel_rows.ROWS), dtype),
    )


def add_product(sums, row, tile):
    mine = ClusterMeeting.rows.at[jax.lax.axis_index("wg")]
    mine[...] = jnp.broadcast_to(row[...][None], mine.shape)
    plgpu.wgmma(sums, mine, tile.T)


def load_lines(ref, lines, layout):
    del layout
    size = kernel_rows.LINE
    return ref[pl.ds(lines.start * size, lines.size * size)].reshape(lines.size, size)


def raced() -> bool:
    """Whether in the last launch, which has ended, a write and another access of the same numbers,
    in device or shared memory, had no order."""
    return gpu_callbacks.get_races().races_found


@contextlib.contextmanager
def interpreted(dtype):
    """`kernel_layers.run`, interpreted, is used meanwhile for weights of `dtype`."""
    params = plgpu.InterpretGPUParams(detect_races=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ClusterMeeting, "scratch", scratch(dtype), raising=False)
        patch.setattr(kernel_program, "Meeting", ClusterMeeting)
        patch.setattr(kernel_program, "TRANSFORMS", ())  # of 16 bits
        run = functools.partial(kernel_layers.run, interpret=params)
        patch.setattr(kernel_layers, "run", run)
        patch.setattr(kernel_rows, "add_product", add_product)
        patch.setattr(kernel_rows, "load_lines", load_lines)
        patch.setattr(kernel_rows, "first_row", lambda x: x[0])
        patch.setattr(kernel_rows, "split", lambda x: tuple(x.reshape(-1, 2).T))
        yield
