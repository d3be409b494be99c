# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""All DeltaNet layers of one token in one Mosaic GPU launch: the memory waits for nothing.

A program on every multiprocessor owns a part of the rows of every matrix, packed in the order in
which it needs them. One warpgroup does nothing but copy that stream into a ring in shared memory;
it depends on nothing, so while programs wait for each other the next weights arrive. Two
warpgroups multiply, each one half of the columns: the input's row is a matrix of 64 equal rows, so
that the tensor cores read weights where they lie.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.experimental.pallas as pl
import jax.experimental.pallas.mosaic_gpu as plgpu
import jax.numpy as jnp
from jax import lax
from jax._src.lib.mlir import ir
from jax._src.lib.mlir.dialects import vector
from jax.experimental.mosaic import gpu as mgpu

L2_EPS = 1e-6
WARPGROUPS = 2  # that multiply
TILE = 64  # columns of a tile: 128 bytes, the widest swizzle
SLOTS, SLOT_ROWS = 8, 192  # of the ring: 24 KiB a slot
HEAD = 128  # K = V
VALUES = 16  # columns of a head's state in a program
ROW = plgpu.Layout.WGMMA.reduce(0)  # of what the tensor cores give, one row of it
# Every second of them.
PAIRS = plgpu.Layout.TILED(
    plgpu.Tiling(((4,), (1,))), (plgpu.Replicated(4),), (plgpu.Replicated(8), -2), -1
)
# [n, 128]: a row a warp. [128, 16] of a state: keys over warps and eight lanes, values over four.
LINES = plgpu.Layout.TILED(plgpu.Tiling(((4, 128), (4,))), (-3,), (-2,), -1)
STATE = plgpu.Layout.TILED(plgpu.Tiling(((32, 16), (8, 16), (4,))), (-5,), (-3, -2), -1)


class Product(NamedTuple):
    """One matrix's part in a program.

    Attributes:
        rows: of the matrix in a program, a multiple of 8.
        columns: of the matrix.
        tiles: for each warpgroup in a slot.
        start: rows of the stream before it.
    """

    rows: int
    columns: int
    tiles: int
    start: int

    @property
    def steps(self) -> int:
        """Slots it takes."""
        return self.columns // (WARPGROUPS * TILE * self.tiles)

    @property
    def slot_rows(self) -> int:
        return WARPGROUPS * self.tiles * self.rows


class Plan(NamedTuple):
    """Which program does what.

    Attributes:
        programs, heads: G, H.
        first, out, gate_up, down: products of a layer.
        rows: of a layer's stream.
    """

    programs: int
    heads: int
    first: Product
    out: Product
    gate_up: Product
    down: Product
    rows: int

    @property
    def products(self) -> tuple[Product, ...]:
        return self.first, self.out, self.gate_up, self.down


def plan(heads: int, hidden: int, programs: int) -> Plan:
    """For a width of 128 heads."""
    width = heads * HEAD
    start, products = 0, []
    for rows, columns in (
        (3 * width + heads, width), (width, width), (2 * hidden, width), (width, hidden),
    ):  # fmt: skip
        rows = 8 * math.ceil(rows / 8 / programs)
        most = columns // (WARPGROUPS * TILE)
        fitting = [t for t in range(1, most + 1) if most % t == 0]
        tiles = max(t for t in fitting if WARPGROUPS * t * rows <= SLOT_ROWS)
        products.append(Product(rows, columns, tiles, start))
        start += rows * columns // TILE
    return Plan(programs, heads, *products, start)


def pack(how: Plan, first, out, gate_up, down) -> jax.Array:
    """[G rows, 64], one layer's stream of every program, one after the other."""
    half = gate_up.shape[0] // 2
    gate_up = jnp.stack([gate_up[:half], gate_up[half:]], axis=1).reshape(2 * half, -1)
    parts = []
    for product, weight in zip(how.products, (first, out, gate_up, down), strict=True):
        weight = jnp.pad(weight, ((0, how.programs * product.rows - weight.shape[0]), (0, 0)))
        sizes = (WARPGROUPS, product.steps, product.tiles, TILE)
        weight = weight.reshape(how.programs, product.rows, *sizes)
        parts.append(weight.transpose(0, 3, 2, 4, 1, 5).reshape(how.programs, -1, TILE))
    return jnp.concatenate(parts, axis=1).reshape(-1, TILE)


@functools.cache
def _first_row(columns):
    @plgpu.inline_mgpu(
        arg_types=(plgpu.Layout.WGMMA,),
        return_type=plgpu.ShapeDtypeStruct((columns,), jnp.float32, layout=ROW),
    )
    def first_row(ctx, x: mgpu.FragmentedArray):
        del ctx
        layout = ROW.to_mgpu()
        like = mgpu.FragmentedArray.splat(
            mgpu.utils.c(0.0, x.mlir_dtype), (columns,), layout
        )
        registers = like.registers.copy()
        registers.flat[:] = x.registers[:, :, :, :, 0].flat[:]
        return mgpu.FragmentedArray(_registers=registers, _layout=layout, _is_signed=None)

    return first_row


def first_row(x: jax.Array) -> jax.Array:
    """Of [64, N] with equal rows: [N]."""
    return _first_row(x.shape[1])(x)


@functools.cache
def _split(pairs):
    half = plgpu.ShapeDtypeStruct((pairs,), jnp.float32, layout=PAIRS)

    @plgpu.inline_mgpu(arg_types=(ROW,), return_type=(half, half))
    def split(ctx, x: mgpu.FragmentedArray):
        del ctx
        outs = []
        for e in range(2):
            like = mgpu.FragmentedArray.splat(mgpu.utils.c(0.0, x.mlir_dtype), (pairs,), PAIRS.to_mgpu())
            registers = like.registers.copy()
            for i, register in enumerate(x.registers.flat):
                value = vector.extract(register, dynamic_position=[], static_position=[e])
                registers.flat[i] = vector.broadcast(ir.VectorType.get((1,), x.mlir_dtype), value)
            outs.append(mgpu.FragmentedArray(_registers=registers, _layout=like.layout, _is_signed=None))
        return tuple(outs)

    return split


def split(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """x[::2], x[1::2] of [2 n]."""
    return _split(x.shape[0] // 2)(x)


def _vector(ref, layout):
    return plgpu.load(ref, layout=layout, optimized=False)


def _sigmoid(x):
    return 1 / (1 + jnp.exp(-x))


def _convolved(z, tails, taps, channels, layout, width):
    """silu of the short convolution of [channels]."""
    new = _vector(z.at[channels], layout)
    out = new * _vector(taps.at[0, channels], layout).astype(jnp.float32)
    for back in range(1, width):
        old = _vector(tails.at[width - 1 - back, channels], layout).astype(jnp.float32)
        out += old * _vector(taps.at[back, channels], layout).astype(jnp.float32)
    return out * _sigmoid(out)


def token_kernel(
    stream, mixer_scale, head_scale, mlp_scale, taps, x, tails, state,
    *, how: Plan, scale: float, beta_scale: float, norm_eps: float, barrier: bool = True,
    products: bool = True,
):  # fmt: skip
    """(x, tails, state) after all layers.

    Args:
        stream: [L G rows, 64], `pack` of all layers.
        mixer_scale, mlp_scale: [L, D / 128, 128]; head_scale [L, 128]; taps [L, W, 3 D].
        x: [G rows of out] float32, the first D count.
        tails: [L, W - 1, 3 D]; state [L, H, K, V] float32.
    """
    num_layers, width = taps.shape[0], how.heads * HEAD
    taps_count = taps.shape[1]
    dtype = stream.dtype
    half = how.down.columns // WARPGROUPS
    targets = 5

    def kernel(
        stream_ref, mixer_ref, head_ref, mlp_ref, taps_ref, x_ref, tails_ref, state_ref,
        x_out, tails_out, state_out, z_ref, o_ref, x1_ref, h_ref,
    ):  # fmt: skip
        pid, wg = lax.axis_index("g"), lax.axis_index("wg")
        everyone = pl.get_global(plgpu.SemaphoreType.REGULAR)

        def scoped(ring, u_s, squares_s, part_s, full, empty, partial):
            def produce():
                plgpu.set_max_registers(24, action="decrease")

                def layer(l, count):
                    for product in how.products:
                        base = (l * how.programs + pid) * how.rows + product.start

                        def step(i, count, product=product, base=base):
                            slot = lax.rem(count, jnp.int32(SLOTS))

                            @pl.when(count >= SLOTS)
                            def _():
                                plgpu.barrier_wait(empty.at[slot])

                            rows = product.slot_rows
                            plgpu.copy_gmem_to_smem(
                                stream_ref.at[pl.ds(base + i * rows, rows)],
                                ring.at[slot, pl.ds(0, rows)],
                                full.at[slot],
                            )
                            return count + 1

                        count = lax.fori_loop(0, product.steps, step, count)
                    return count

                lax.fori_loop(0, num_layers, layer, jnp.int32(0))

            def multiply(product: Product, count):
                """(this warpgroup's part of the rows [rows], count of slots after it)."""

                def with_accumulator(acc):
                    def step(i, count):
                        slot = lax.rem(count, jnp.int32(SLOTS))
                        plgpu.barrier_wait(full.at[slot])
                        for t in range(product.tiles if products else 0):
                            at = (i * product.tiles + t) * TILE
                            u = plgpu.load(
                                u_s.at[wg, lax.div(at, 128), pl.ds(lax.rem(at, 128), TILE)],
                                layout=ROW, optimized=False,
                            )
                            u = plgpu.layout_cast(
                                lax.broadcast_in_dim(u, (64, TILE), (1,)), plgpu.Layout.WGMMA
                            )
                            start = (wg * product.tiles + t) * product.rows
                            tile = ring.at[slot, pl.ds(start, product.rows)]
                            plgpu.wgmma(acc, u, plgpu.transpose_ref(tile, (1, 0)))
                        plgpu.wgmma_wait(0)
                        plgpu.barrier_arrive(empty.at[slot])
                        return count + 1

                    return lax.fori_loop(0, product.steps, step, count), first_row(acc[...])

                count, y = pl.run_scoped(
                    with_accumulator, plgpu.ACC((64, product.rows), jnp.float32)
                )
                return y, count

            def both(y, then):
                """Of both warpgroups' parts of rows the sum to `then`, in the first."""
                rows = pl.ds(0, y.shape[0])

                @pl.when(wg == 1)
                def _():
                    part_s[rows] = y
                    plgpu.barrier_arrive(partial)

                @pl.when(wg == 0)
                def _():
                    plgpu.barrier_wait(partial)
                    then(y + _vector(part_s.at[rows], ROW))

            def normed(ref, scales):
                """Input of the next product; the norm's factor comes later."""
                lines = pl.ds(wg * (how.heads // 2), how.heads // 2)
                values = _vector(ref.at[pl.ds(0, width)].reshape(how.heads, HEAD).at[lines], LINES)
                gain = _vector(scales.at[lines], LINES).astype(jnp.float32)
                u_s[wg, pl.ds(0, how.heads // 2)] = (values * gain).astype(dtype)
                squares_s[lines] = jnp.sum(values * values, axis=1)

            def factor():
                total = squares_s[0]
                for i in range(1, how.heads):
                    total += squares_s[i]
                return lax.rsqrt(total / width + norm_eps)

            def wait(target):
                if barrier:
                    plgpu.semaphore_wait(everyone, target, decrement=False, memory_scope="gpu")

            def tell():
                if barrier:
                    plgpu.semaphore_signal(everyone, memory_scope="gpu")

            def consume():
                plgpu.set_max_registers(232, action="increase")
                head = lax.div(pid, HEAD // VALUES)
                value = lax.rem(pid, HEAD // VALUES) * VALUES
                mine = pl.ds(pid * how.out.rows, how.out.rows)

                def layer(l, carry):
                    x, count = carry
                    target = l * (targets * how.programs)

                    # 1. z = W norm(x)
                    @pl.when(l == 0)
                    def _():
                        normed(x_ref, mixer_ref.at[l])

                    @pl.when(l > 0)
                    def _():
                        normed(x_out, mixer_ref.at[l])

                    y, count = multiply(how.first, count)
                    channels = pl.ds(pid * how.first.rows, how.first.rows)

                    def store_z(y):
                        y = y * factor()
                        z_ref[channels] = y

                        @pl.when(pid < 3 * width // how.first.rows)
                        def _():
                            for j in range(taps_count - 2):
                                kept = _vector(tails_ref.at[l, j + 1, channels], ROW)
                                tails_out[l, j, channels] = kept
                            tails_out[l, taps_count - 2, channels] = y.astype(dtype)

                        tell()

                    both(y, store_z)

                    # 2. S, o = step(S, z)
                    @pl.when(wg == 0)
                    def _():
                        wait(target + how.programs)

                    @pl.when((wg == 0) & (pid < width // VALUES))
                    def _():
                        values = pl.ds(value, VALUES)
                        memory = _vector(state_ref.at[l, head, :, values], STATE)
                        where = z_ref, tails_ref.at[l], taps_ref.at[l]
                        q, k = (
                            _convolved(
                                *where, pl.ds(at * width + head * HEAD, HEAD), STATE.reduce(1),
                                taps_count,
                            )
                            for at in range(2)
                        )  # fmt: skip
                        v = _convolved(
                            *where, pl.ds(2 * width + head * HEAD + value, VALUES),
                            STATE.reduce(0), taps_count,
                        )  # fmt: skip
                        beta = z_ref[3 * width + head]
                        beta = beta_scale * _sigmoid(beta)
                        q = q * lax.rsqrt(jnp.sum(q * q) + L2_EPS)
                        k = k * lax.rsqrt(jnp.sum(k * k) + L2_EPS)

                        def over(a, dim):
                            return plgpu.layout_cast(
                                lax.broadcast_in_dim(a, (HEAD, VALUES), (dim,)), STATE
                            )

                        write = beta * (v - jnp.sum(over(k, 0) * memory, axis=0))
                        memory = memory + over(k, 0) * over(write, 1)
                        state_out[l, head, :, values] = memory
                        read = scale * jnp.sum(over(q, 0) * memory, axis=0)
                        o_ref[pl.ds(head * HEAD + value, VALUES)] = read

                    @pl.when(wg == 0)
                    def _():
                        tell()

                    wait(target + 2 * how.programs)

                    # 3. x1 = x + W norm(o), a norm a head
                    lines = pl.ds(wg * (how.heads // 2), how.heads // 2)
                    o = _vector(o_ref.at[pl.ds(0, width)].reshape(how.heads, HEAD).at[lines], LINES)
                    gain = _vector(head_ref.at[l], LINES.reduce(0)).astype(jnp.float32)
                    r = lax.rsqrt(jnp.sum(o * o, axis=1) * (1 / HEAD) + norm_eps)
                    shape = (how.heads // 2, HEAD)
                    r, gain = (
                        plgpu.layout_cast(lax.broadcast_in_dim(a, shape, (i,)), LINES)
                        for i, a in enumerate((r, gain))
                    )
                    u_s[wg, pl.ds(0, how.heads // 2)] = (o * r * gain).astype(dtype)
                    y, count = multiply(how.out, count)

                    def store_x1(y):
                        x1_ref[mine] = x + y
                        tell()

                    both(y, store_x1)
                    wait(target + 3 * how.programs)

                    # 4. h = silu(W_1 u) (W_2 u), u = norm(x1)
                    normed(x1_ref, mlp_ref.at[l])
                    y, count = multiply(how.gate_up, count)

                    def store_h(y):
                        gate, up = split(y * factor())
                        n = how.gate_up.rows // 2
                        h_ref[pl.ds(pid * n, n)] = gate * _sigmoid(gate) * up
                        tell()

                    both(y, store_h)
                    wait(target + 4 * how.programs)

                    # 5. x = x1 + W h
                    lines = how.down.columns // HEAD // WARPGROUPS
                    h = _vector(
                        h_ref.at[pl.ds(0, how.down.columns)].reshape(2 * lines, HEAD).at[pl.ds(wg * lines, lines)],
                        plgpu.Layout.WG_STRIDED((lines, HEAD), vec_size=2),
                    )
                    u_s[wg, pl.ds(0, lines)] = h.astype(dtype)
                    y, count = multiply(how.down, count)

                    def store_x(y):
                        x_out[mine] = _vector(x1_ref.at[mine], ROW) + y
                        tell()

                    both(y, store_x)
                    wait(target + 5 * how.programs)
                    return _vector(x_out.at[mine], ROW), count

                lax.fori_loop(0, num_layers, layer, (_vector(x_ref.at[mine], ROW), jnp.int32(0)))

            pl.when(wg == WARPGROUPS)(produce)
            pl.when(wg < WARPGROUPS)(consume)

        transforms = (plgpu.TilingTransform((8, TILE)), plgpu.SwizzleTransform(128))
        pl.run_scoped(
            scoped,
            plgpu.SMEM((SLOTS, SLOT_ROWS, TILE), dtype, transforms=transforms),
            plgpu.SMEM((WARPGROUPS, max(half, width // 2) // HEAD, HEAD), dtype),
            plgpu.SMEM((how.heads,), jnp.float32),
            plgpu.SMEM((max(p.rows for p in how.products),), jnp.float32),
            plgpu.Barrier(num_arrivals=1, num_barriers=SLOTS),
            plgpu.Barrier(num_arrivals=WARPGROUPS, num_barriers=SLOTS),
            plgpu.Barrier(num_arrivals=1),
            collective_axes="wg",
        )

    f32 = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
    sizes = (how.first.rows, how.out.rows, how.out.rows, how.gate_up.rows // 2)
    x, tails, state, *_ = plgpu.kernel(
        kernel,
        out_type=(
            f32(x.shape), jax.ShapeDtypeStruct(tails.shape, tails.dtype), f32(state.shape),
            *(f32((how.programs * n,)) for n in sizes),
        ),
        grid=(how.programs,),
        grid_names=("g",),
        num_threads=WARPGROUPS + 1,
        thread_name="wg",
        compiler_params=plgpu.CompilerParams(approx_math=True),
    )(stream, mixer_scale, head_scale, mlp_scale, taps, x, tails, state)  # fmt: skip
    return x, tails, state
