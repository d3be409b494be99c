# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""All DeltaNet layers of one token as one launch; not measured yet, and nothing calls it."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pallas_kernels._common import checks, triton_launch
from pallas_kernels._common.triton_device import Tile
from pallas_kernels.decoding.triton_token import token_kernel

ALL_PHASES = 31
ROWS, COLUMNS = 8, 256  # of a weight's tile: a row is what a warp loads at once


class Weights(NamedTuple):
    """Of all layers [L, ...], in one 16-bit dtype; matrices lie as [outputs, inputs].

    Attributes:
        first: [L, 3 D + H, D], the maps to q, k, v and beta's logits, in this order.
        out: [L, D, D], down: [L, D, F], gate_up: [L, 2 F, D], the gate's rows first.
        mixer_scale, mlp_scale: [L, D], head_scale: [L, K], of the RMSNorms.
        taps: [L, W, 3 D], of the convolutions of q, k, v side by side.
    """

    first: jax.Array
    out: jax.Array
    gate_up: jax.Array
    down: jax.Array
    mixer_scale: jax.Array
    head_scale: jax.Array
    mlp_scale: jax.Array
    taps: jax.Array


class Carried(NamedTuple):
    """What a token leaves to the next, each array written over the one before.

    Attributes:
        x: [D], the residual stream, before and after the layers.
        tails: [L, W - 1, 3 D], projections of q, k, v before this one, oldest first.
        state: [L, H, K, K] float32.
        scratch: of the kernel: what passes from one phase to the next, and its counter. Made by
            `scratch`; the counter is 0 between tokens.
    """

    x: jax.Array
    tails: jax.Array
    state: jax.Array
    scratch: tuple[jax.Array, ...]


def scratch(weights: Weights) -> tuple[jax.Array, ...]:
    """For `Carried`, once: z [3 D + H], o [D], x1 [D], h [F], counter [1] int32."""
    rows, width = weights.first.shape[1:]
    sizes = (rows, width, width, weights.down.shape[2])
    zeros = tuple(jnp.zeros((n,), weights.first.dtype) for n in sizes)
    return *zeros, jnp.zeros((1,), jnp.int32)


def token_triton(
    weights: Weights,
    carried: Carried,
    *,
    programs: int,
    depth: int = 14,
    scale: float | None = None,
    beta_scale: float = 1.0,
    norm_eps: float = 1e-6,
    capability: int = 90,
    warps: int = 8,
    layers: jax.Array | None = None,
    phases: int = ALL_PHASES,
    barrier: bool = True,
) -> Carried:
    """x through all layers of a DeltaNet with SwiGLU, one row.

    A layer, with norm(a, g) = g a / sqrt(mean a^2 + norm_eps): z = first norm(x); the rest of
    `delta_net_step` on z; x1 = x + out o; x = x1 + down (silu(gate u) * up u), u = norm(x1).

    Args:
        weights, carried: as above; D = H K a power of two, V = K, W >= 2.
        programs: all must run at the same time: at most the GPU's number of multiprocessors, on
            which one fits; at least H.
        depth: tiles asked for ahead, of 4 KB each; best where it divides a layer's number of them.
        scale: of the queries, K**-0.5 by default.
        layers: for tests, as phases and barrier: the first and the one after the last, [2] int32.
        phases: bits of those to do; without the barrier one of one layer.
    Returns:
        What to pass with the next token.
    Raises:
        ValueError: a shape is not as above.
    """
    num_layers, heads, key_size, value_size = carried.state.shape
    width = heads * key_size
    if value_size != key_size or width & (width - 1):
        raise ValueError(
            f"state: wanted K = V and H K a power of two, got shape {carried.state.shape}"
        )
    if programs < heads:
        raise ValueError(f"programs: wanted at least a program a head, {heads}, got {programs}")
    sizes = {"L": num_layers, "D": width, "K": key_size, "F": weights.down.shape[2]}
    sizes |= {"Z": 3 * width + heads, "G": 2 * sizes["F"], "C": 3 * width}
    sizes |= {"W": weights.taps.shape[1], "past": weights.taps.shape[1] - 1}
    if sizes["W"] < 2:
        raise ValueError(f"taps: wanted at least 2, got {sizes['W']}")
    shapes = ("L Z D", "L D D", "L G D", "L D F", "L D", "L K", "L D", "L W C")
    for name, array, axes in zip(Weights._fields, weights, shapes, strict=True):
        checks.check_shape(name, array, axes, sizes)
    checks.check_shape("x", carried.x, "D", sizes)
    checks.check_shape("tails", carried.tails, "L past C", sizes)
    block = 1 << (math.ceil(width / programs) - 1).bit_length()  # columns of states a program
    results = triton_launch.launch(
        token_kernel,
        *weights,
        jnp.array([0, num_layers], jnp.int32) if layers is None else layers,
        carried.x,
        carried.tails,
        carried.state,
        *carried.scratch,
        float(key_size**-0.5 if scale is None else scale),
        float(beta_scale),
        *(float(norm_eps),) * 3,
        out=[carried.x, carried.tails, carried.state, *carried.scratch],
        aliases={len(weights) + 1 + i: i for i in range(8)},
        grid=(programs,),
        tile=Tile(0, 0, warps, 1),
        capability=capability,
        Z=sizes["Z"],
        D=width,
        F=sizes["F"],
        H=heads,
        K=key_size,
        BV=min(key_size, max(block, 1)),
        W=sizes["W"],
        BN=ROWS,
        BD=min(COLUMNS, width),
        BC=1 << (math.ceil(3 * width / programs) - 1).bit_length(),
        G=programs,
        DEPTH=depth,
        PHASES=phases,
        BARRIER=barrier,
    )
    x, tails, state, *left = results
    return Carried(x, tails, state, tuple(left))
