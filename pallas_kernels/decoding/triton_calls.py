# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The kernels of one token as functions of arrays: tiles, grids, what is written in place."""

import math

import jax

from pallas_kernels._common import triton_device, triton_launch
from pallas_kernels._common.triton_device import Tile
from pallas_kernels.decoding.triton_kernels import delta_net_kernel, row_product_kernel

LINE_BYTES = 128  # of the L2 cache
LINES = 512  # that a program asks for
# What the memory can bring while a product's last programs finish and the next kernel starts, and
# while the heads' states, little at few rows, are gone through.
AHEAD_BYTES = {"row_product": 8 * 2**20, "delta_net_step": 16 * 2**20}


def ahead_programs(kernel: str, size: int) -> int:
    """Programs that bring the beginning of `size` bytes into the cache, none past the end."""
    return min(size, AHEAD_BYTES[kernel]) // (LINE_BYTES * LINES)


def _bytes(x: jax.Array | None) -> int:
    return 0 if x is None else x.size * x.dtype.itemsize


def product_tile(columns: int, itemsize: int, gated: bool) -> Tile:
    """Outputs (block_v) of a program and columns (block_k) that it takes at a time.

    256 numbers of 16 bits are what a warp loads at once, 16 bytes a thread: every warp has whole
    rows.
    """
    block_k = min(512 // itemsize, 1 << (columns - 1).bit_length())
    return Tile(block_k, 4 if gated else 8, 4, 1)


def row_product_triton(
    x,
    weight,
    norm_scale,
    residual,
    ahead,
    *,
    norm_eps: float,
    gated: bool,
    capability: int | None = None,
):
    """See row_product.py."""
    rows, columns = weight.shape
    rows = rows // 2 if gated else rows
    tile = product_tile(columns, x.dtype.itemsize, gated)
    programs = ahead_programs("row_product", _bytes(ahead))
    (y,) = triton_launch.launch(
        row_product_kernel,
        x,
        x if norm_scale is None else norm_scale,
        weight,
        x if residual is None else residual,
        x if ahead is None else ahead,
        norm_eps,
        out=[jax.ShapeDtypeStruct((1, rows), x.dtype)],
        grid=(math.ceil(rows / tile.block_v) + programs,),
        tile=tile,
        capability=capability or triton_device.capability(),
        N=rows,
        D=columns,
        BN=tile.block_v,
        BD=tile.block_k,
        NORM=norm_scale is not None,
        GATED=gated,
        RESIDUAL=residual is not None,
        LINE=1 if ahead is None else LINE_BYTES // ahead.dtype.itemsize,
        LINES=LINES,
    )
    return y


def delta_net_step_triton(
    projected,
    tails,
    taps,
    norm_scale,
    state,
    ahead,
    *,
    columns,
    beta_scale: float,
    norm_eps: float,
    scale: float,
    capability: int | None = None,
):
    """See delta_net_step.py."""
    batch, heads, key_size, value_size = state.shape
    warps = max(1, key_size * value_size // 4096)  # 128 numbers of the state a thread
    programs = ahead_programs("delta_net_step", _bytes(ahead))
    output = jax.ShapeDtypeStruct((batch, heads * value_size), projected.dtype)
    output, *tails, state = triton_launch.launch(
        delta_net_kernel,
        projected,
        *tails,
        *taps,
        norm_scale,
        state,
        projected if ahead is None else ahead,
        scale,
        beta_scale,
        norm_eps,
        out=[output, *tails, state],
        aliases={1: 1, 2: 2, 3: 3, 8: 4},
        grid=(batch * heads + programs,),
        tile=Tile(0, 0, warps, 1),
        capability=capability or triton_device.capability(),
        B=batch,
        H=heads,
        K=key_size,
        V=value_size,
        W=taps[0].shape[0],
        WIDTH=projected.shape[1],
        Q_AT=columns.q,
        K_AT=columns.k,
        V_AT=columns.v,
        BETA_AT=columns.beta,
        LINE=1 if ahead is None else LINE_BYTES // ahead.dtype.itemsize,
        LINES=LINES,
    )
    return output, tuple(tails), state
