# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The kernels of one token as functions of arrays: tiles, grids, what is written in place."""

import math

import jax

from pallas_kernels._common import triton_device, triton_launch
from pallas_kernels._common.triton_device import Tile
from pallas_kernels.decoding.triton_kernels import delta_net_kernel, row_product_kernel


def product_tile(columns: int, itemsize: int, normed: bool, gated: bool) -> Tile:
    """Outputs (block_v) of a program and columns (block_k) that it takes at a time.

    256 numbers of 16 bits are what a warp loads at once, 16 bytes a thread: every warp has whole
    rows, two where x has to be normalised for them. Of some ten tiles the fastest on an H200 for
    the 1.3B model's matrices, or within 2 % of it.
    """
    block_k = min(512 // itemsize, 1 << (columns - 1).bit_length())
    if gated:  # two matrices
        return Tile(block_k, 4, 4, 1)
    return Tile(block_k, 8, 4 if normed else 8, 1)


def row_product_triton(
    x,
    weight,
    norm_scale,
    residual,
    *,
    norm_eps: float,
    gated: bool,
    capability: int | None = None,
):
    """See row_product.py."""
    rows, columns = weight.shape
    rows = rows // 2 if gated else rows
    tile = product_tile(columns, x.dtype.itemsize, norm_scale is not None, gated)
    (y,) = triton_launch.launch(
        row_product_kernel,
        x,
        x if norm_scale is None else norm_scale,
        weight,
        x if residual is None else residual,
        norm_eps,
        out=[jax.ShapeDtypeStruct((1, rows), x.dtype)],
        grid=(math.ceil(rows / tile.block_v),),
        tile=tile,
        capability=capability or triton_device.capability(),
        N=rows,
        D=columns,
        BN=tile.block_v,
        BD=tile.block_k,
        NORM=norm_scale is not None,
        GATED=gated,
        RESIDUAL=residual is not None,
    )
    return y


def delta_net_step_triton(
    projected,
    tails,
    taps,
    norm_scale,
    state,
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
    output = jax.ShapeDtypeStruct((batch, heads * value_size), projected.dtype)
    output, *tails, state = triton_launch.launch(
        delta_net_kernel,
        projected,
        *tails,
        *taps,
        norm_scale,
        state,
        scale,
        beta_scale,
        norm_eps,
        out=[output, *tails, state],
        aliases={1: 1, 2: 2, 3: 3, 8: 4},
        grid=(batch * heads,),
        tile=Tile(0, 0, warps, 1),
        capability=capability or triton_device.capability(),
        H=heads,
        K=key_size,
        V=value_size,
        W=taps[0].shape[0],
        WIDTH=projected.shape[1],
        Q_AT=columns.q,
        K_AT=columns.k,
        V_AT=columns.v,
        BETA_AT=columns.beta,
    )
    return output, tuple(tails), state
