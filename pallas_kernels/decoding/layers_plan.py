# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""How the weights of DeltaNet layers are dealt out to the programs of one launch, and packed."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

HEAD = 128  # K = V
TILE = 64  # columns of a tile: 128 bytes, a line of shared memory's widest swizzle
SLOTS, SLOT_ROWS = 8, 192  # of the ring in shared memory: 24 KiB a slot
VALUES = 16  # columns of a head's state in a program, or a multiple


class Product(NamedTuple):
    """A program's part of one matrix.

    Attributes:
        rows: of the matrix, a multiple of 8; program g has rows g rows to (g + 1) rows - 1, and
            what is past the matrix's last is zeros.
        columns: of the matrix.
        tiles: [rows, TILE] in a slot of the ring.
        steps: slots that each warpgroup takes.
        start: lines of the stream before it.
    """

    rows: int
    columns: int
    tiles: int
    steps: int
    start: int

    @property
    def lines(self) -> int:
        """Of the stream in one slot."""
        return self.tiles * self.rows


class Plan(NamedTuple):
    """Who does what.

    Attributes:
        programs, heads: G, H.
        warpgroups: of a program that multiply, each an equal part of every matrix's columns.
        first, out, gate_up, down: products of a layer, in order.
        lines: of a layer's stream in a program.
        values: columns of a head's state in a program.
    """

    programs: int
    heads: int
    warpgroups: int
    first: Product
    out: Product
    gate_up: Product
    down: Product
    lines: int
    values: int

    @property
    def products(self) -> tuple[Product, ...]:
        return self.first, self.out, self.gate_up, self.down

    @property
    def width(self) -> int:
        return self.heads * HEAD

    @property
    def slot_lines(self) -> int:
        """Of the largest slot."""
        return max(p.lines for p in self.products)


class Weights(NamedTuple):
    """Of one layer, in one 16-bit dtype; matrices lie as [outputs, inputs]. D = 128 H.

    Attributes:
        first: [3 D + H, D], the maps to q, k, v and beta's logits, in this order.
        out: [D, D], gate_up: [2 F, D], the gate's rows first, down: [D, F].
    """

    first: jax.Array
    out: jax.Array
    gate_up: jax.Array
    down: jax.Array


def plan(heads: int, hidden: int, programs: int, warpgroups: int = 2) -> Plan:
    """For a width of 128 heads and `hidden` F, a multiple of 256.

    Args:
        programs: at least one a head.
        warpgroups: that multiply, 2 or 4. Four take `hidden` and heads of twice as many.
    Raises:
        ValueError: there are fewer programs than heads.
    """
    if programs < heads:
        raise ValueError(f"programs: wanted at least one a head, {heads}, got {programs}")
    width = heads * HEAD
    sizes = ((3 * width + heads, width), (width, width), (2 * hidden, width), (width, hidden))
    start, products = 0, []
    for total, columns in sizes:
        rows = 8 * math.ceil(total / (8 * programs))
        most = columns // (warpgroups * TILE)
        fitting = [t for t in range(1, most + 1) if most % t == 0 and t * rows <= SLOT_ROWS]
        tiles = max(fitting, default=1)
        products.append(Product(rows, columns, tiles, most // tiles, start))
        start += rows * columns // TILE
    values = VALUES
    while width // values > programs:
        values *= 2
    return Plan(programs, heads, warpgroups, *products, start, values)


def pack(how: Plan, weights: Weights) -> Float[Array, "lines TILE"]:
    """A layer's stream of every program, one after the other, in the order of its products.

    Slots are for one warpgroup after the other. Rows of gate and up take turns.
    """
    gate, up = jnp.split(weights.gate_up, 2)
    weights = weights._replace(gate_up=jnp.stack([gate, up], axis=1).reshape(2 * len(gate), -1))
    parts = []
    for product, weight in zip(how.products, weights, strict=True):
        missing = how.programs * product.rows - weight.shape[0]
        weight = jnp.pad(weight, ((0, missing), (0, 0)))
        sizes = (how.warpgroups, product.steps, product.tiles, TILE)
        weight = weight.reshape(how.programs, product.rows, *sizes)
        parts.append(weight.transpose(0, 3, 2, 4, 1, 5).reshape(how.programs, -1, TILE))
    return jnp.concatenate(parts, axis=1).reshape(-1, TILE)
