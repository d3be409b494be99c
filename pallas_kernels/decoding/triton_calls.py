# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The kernels of one token as functions of arrays: tiles, grids, what is written in place."""

import math

import jax

from pallas_kernels.decoding.triton_kernels import delta_net_kernel, row_product_kernel
from pallas_kernels.delta_rule import triton_launch, triton_support
from pallas_kernels.delta_rule.triton_support import Tile


def product_tile(rows: int, columns: int, itemsize: int, gated: bool) -> Tile:
    """Outputs (block_v) of a program and columns (block_k) that it takes at a time.

    A program has some 32 KiB of weights on their way at once: a few of them on every
    multiprocessor hide the memory's latency.
    """
    block_k = min(2048 // max(1, itemsize // 2), 1 << (columns - 1).bit_length())
    if columns % block_k:  # no masked lanes: the largest power of two in `columns`, if it is large
        divisor = columns & -columns
        block_k = divisor if divisor >= 256 else block_k
    block_v = 4 if gated or rows < 1024 else 8
    return Tile(block_k, block_v, 8, 1)


def row_product_triton(
    x, weight, norm_scale, residual, *, norm_eps: float, gated: bool, capability: int | None = None
):
    """See row_product.py."""
    capability = capability or triton_support.capability()
    rows, columns = weight.shape
    rows = rows // 2 if gated else rows
    tile = product_tile(rows, columns, x.dtype.itemsize, gated)
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
        capability=capability,
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
    warps = 8 if key_size * value_size >= 128 * 128 else 4
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
        capability=capability or triton_support.capability(),
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
