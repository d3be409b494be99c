# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""What the parts of a layer in `kernel_layers` are made of: weights that arrive, products, vectors
that pass from program to program."""

from typing import NamedTuple

import jax
import jax.experimental.pallas as pl
import jax.experimental.pallas.mosaic_gpu as plgpu
import jax.numpy as jnp
from jax import lax

from pallas_kernels.decoding import kernel_rows
from pallas_kernels.decoding.kernel_rows import ROW
from pallas_kernels.decoding.layers_plan import HEAD, SLOTS, TILE, Plan, Product

# Slots on their way at a time. More of them arrive no sooner, and what programs tell each other
# waits behind them.
IN_FLIGHT = 2
# Of tiles in shared memory, as the tensor cores take them.
TRANSFORMS = (plgpu.TilingTransform((8, TILE)), plgpu.SwizzleTransform(2 * TILE))
# [n, 128]: a warp has a line.
LINES = plgpu.Layout.TILED(plgpu.Tiling(((4, HEAD), (4,))), (-3,), (-2,), -1)


class Shared(NamedTuple):
    """Shared memory and barriers of a program.

    Attributes:
        ring: [SLOTS, lines, TILE] of the stream.
        row: [warpgroups, n, 128], each one's part of the next product's input.
        squares: [H], of the input's lines the sum of squares.
        parts: of a product, what warpgroups beside the first have.
        full, empty: of the ring's slots; multiplied: `parts` are there.
    """

    ring: jax.Ref
    row: jax.Ref
    squares: jax.Ref
    parts: jax.Ref
    full: jax.Ref
    empty: jax.Ref
    multiplied: jax.Ref


class Meeting:
    """What programs wrote to device memory before it, all read after it.

    A counter that is zero when the launch starts; all programs run at the same time.
    """

    scratch = ()

    def __init__(self, programs: int):
        self.programs = programs
        self.counter = pl.get_global(plgpu.SemaphoreType.REGULAR)

    def arrive(self):
        """By one warpgroup of every program, when what it wrote is on its way."""
        plgpu.semaphore_signal(self.counter, memory_scope="gpu")

    def wait(self, number):
        """Until all have arrived `number` times. By every warpgroup, every time."""
        plgpu.semaphore_wait(
            self.counter, number * self.programs, decrement=False, memory_scope="gpu"
        )


def load(ref, layout):
    return plgpu.load(ref, layout=layout, optimized=False)


def over(x, shape, axis, layout):
    """x along `axis` of `shape`, equal along the other."""
    return plgpu.layout_cast(lax.broadcast_in_dim(x, shape, (axis,)), layout)


def sigmoid(x):
    return 1 / (1 + jnp.exp(-x))


class Program:
    """One warpgroup of one program, with what its parts have in common."""

    def __init__(self, how: Plan, shared: Shared, dtype, norm_eps: float):
        self.how, self.shared, self.dtype, self.norm_eps = how, shared, dtype, norm_eps
        self.index, self.warpgroup = lax.axis_index("g"), lax.axis_index("wg")

    def load_weights(self, stream, num_layers: int):
        """Fills the ring; runs in a warpgroup of its own."""
        how, shared = self.how, self.shared

        def take_turn(count):
            """Waits until slot `count` may be filled."""
            slot, before = (lax.rem(i, jnp.int32(SLOTS)) for i in (count, count - IN_FLIGHT))
            pl.when(count >= SLOTS)(lambda: plgpu.barrier_wait(shared.empty.at[slot]))
            pl.when(count >= IN_FLIGHT)(lambda: plgpu.barrier_wait(shared.full.at[before]))
            return slot

        def layer(number, count):
            for product in how.products:
                first = (number * how.programs + self.index) * how.lines + product.start

                def step(i, count, product=product, first=first):
                    slot = take_turn(count)
                    plgpu.copy_gmem_to_smem(
                        stream.at[pl.ds(first + i * product.lines, product.lines)],
                        shared.ring.at[slot, pl.ds(0, product.lines)],
                        shared.full.at[slot],
                    )
                    return count + 1

                count = lax.fori_loop(0, how.warpgroups * product.steps, step, count)
            return count

        count = lax.fori_loop(0, num_layers, layer, jnp.int32(0))
        for i in range(IN_FLIGHT):
            plgpu.barrier_wait(shared.full.at[lax.rem(count - IN_FLIGHT + i, jnp.int32(SLOTS))])
        for i in range(SLOTS):
            plgpu.barrier_wait(shared.empty.at[lax.rem(count - SLOTS + i, jnp.int32(SLOTS))])

    def lines(self, count: int):
        """This warpgroup's part of a vector's `count` lines."""
        size = count // self.how.warpgroups
        return pl.ds(self.warpgroup * size, size)

    def give(self, x):
        """x [n, 128]: this warpgroup's part of the next product's input."""
        self.shared.row[self.warpgroup, pl.ds(0, x.shape[0])] = x.astype(self.dtype)

    def give_normed(self, x_ref, scale_ref):
        """norm(x) but for the factor of all, which `factor` gives when the product is there."""
        lines = self.lines(self.how.heads)
        x = kernel_rows.load_lines(x_ref, lines, LINES)
        self.give(x * load(scale_ref.at[lines], LINES).astype(jnp.float32))
        self.shared.squares[lines] = jnp.sum(x * x, axis=1)

    def factor(self):
        total = self.shared.squares[0]
        for line in range(1, self.how.heads):
            total += self.shared.squares[line]
        return lax.rsqrt(total / self.how.width + self.norm_eps)

    def multiply(self, product: Product, count):
        """(rows of the product with this warpgroup's part of the input, slots used so far)."""
        how, shared = self.how, self.shared

        def with_sums(sums):
            @pl.loop(0, product.steps)
            def _(step):
                slot = lax.rem(count + step * how.warpgroups + self.warpgroup, jnp.int32(SLOTS))
                plgpu.barrier_wait(shared.full.at[slot])
                for t in range(product.tiles):
                    at = (step * product.tiles + t) * TILE
                    part = pl.ds(lax.rem(at, HEAD), TILE)
                    row = shared.row.at[self.warpgroup, lax.div(at, HEAD), part]
                    tile = shared.ring.at[slot, pl.ds(t * product.rows, product.rows)]
                    kernel_rows.add_product(sums, row, tile)
                    plgpu.wgmma_wait(1)  # registers of two rows at a time
                plgpu.wgmma_wait(0)
                plgpu.barrier_arrive(shared.empty.at[slot])

            return kernel_rows.first_row(sums[...])

        part = pl.run_scoped(with_sums, plgpu.ACC((kernel_rows.ROWS, product.rows), jnp.float32))
        return part, count + how.warpgroups * product.steps

    def finish(self, part, then):
        """In the first warpgroup: `then` of all warpgroups' parts added up."""
        others, rows = self.how.warpgroups - 1, pl.ds(0, part.shape[0])

        @pl.when(self.warpgroup > 0)
        def _():
            self.shared.parts[self.warpgroup - 1, rows] = part
            plgpu.barrier_arrive(self.shared.multiplied)

        @pl.when(self.warpgroup == 0)
        def _():
            plgpu.barrier_wait(self.shared.multiplied)
            then(sum((load(self.shared.parts.at[i, rows], ROW) for i in range(others)), part))

    def mine(self, rows: int):
        """Of a vector with `rows` for every program."""
        return pl.ds(self.index * rows, rows)
