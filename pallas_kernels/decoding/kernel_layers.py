# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""All DeltaNet layers of one token in one Mosaic GPU launch: the memory waits for no kernel.

A program on every multiprocessor owns rows of every matrix (layers_plan.py). One warpgroup copies
them, in the order in which they are needed, into a ring in shared memory. That depends on nothing,
so while programs wait for each other, or for a small sum, the next weights arrive.

The others multiply, each a part of the columns. To the tensor cores the row is a matrix of 64
equal rows, so that they read weights as they lie. Between two products vectors pass through device
memory, and everybody waits for everybody (`Meeting`).
"""

import functools
from typing import NamedTuple

import jax
import jax.experimental.pallas as pl
import jax.experimental.pallas.mosaic_gpu as plgpu
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from pallas_kernels.decoding import kernel_program, kernel_rows
from pallas_kernels.decoding.kernel_program import LINES, Program, Shared, load, over, sigmoid
from pallas_kernels.decoding.kernel_rows import ROW
from pallas_kernels.decoding.layers_plan import HEAD, SLOTS, TILE, VALUES, Plan

L2_EPS = 1e-6
# A thread's that multiplies, by how many warpgroups do: of 65,536, less what others keep.
REGISTERS = {2: 232, 4: 112}
MEETINGS = 5  # of all programs in a layer
# Of a head's state [128, values]: keys over warps and eight lanes, values over four lanes.
STATE = plgpu.Layout.TILED(plgpu.Tiling(((32, VALUES), (8, VALUES), (4,))), (-5,), (-3, -2), -1)


class Inputs(NamedTuple):
    """Of all layers; x [G rows] float32, of which the first D count. Others as in `run`."""

    stream: jax.Array
    mixer_scale: jax.Array
    head_scale: jax.Array
    mlp_scale: jax.Array
    taps: jax.Array
    x: jax.Array
    tails: jax.Array
    state: jax.Array


class Outputs(NamedTuple):
    """What a launch leaves; z, o, x1 and h pass from product to product."""

    x: jax.Array
    tails: jax.Array
    state: jax.Array
    z: jax.Array
    o: jax.Array
    x1: jax.Array
    h: jax.Array


class _Convolution(NamedTuple):
    """Of some channels: the newest input's tap, and the sum over the inputs before it."""

    tap: jax.Array
    past: jax.Array

    def __call__(self, newest):
        """Its silu."""
        out = newest * self.tap + self.past
        return out * sigmoid(out)


def _convolution(tails, taps, channels, layout) -> _Convolution:
    width = taps.shape[0]
    tap, *older = (
        load(taps.at[back, channels], layout).astype(jnp.float32) for back in range(width)
    )
    past = 0.0
    for back, weight in enumerate(older, 1):
        past += weight * load(tails.at[width - 1 - back, channels], layout).astype(jnp.float32)
    return _Convolution(tap, past)


def _step(
    program: Program, old: Inputs, new: Outputs, layer, wait, scale: float, beta_scale: float
):
    """Some values of a head in `delta_net_step`, but for the norm of what is read.

    What does not depend on the newest inputs comes before `wait` for them.
    """
    how = program.how
    width, pieces = how.width, HEAD // how.values
    head = lax.min(lax.div(program.index, pieces), how.heads - 1)  # the last ones do it for nobody
    first = lax.rem(program.index, pieces) * how.values
    values, shape = pl.ds(first, how.values), (HEAD, how.values)
    memory = load(old.state.at[layer, head, :, values], STATE)
    keys = [pl.ds(i * width + head * HEAD, HEAD) for i in range(2)]
    channels = [*keys, pl.ds(2 * width + head * HEAD + first, how.values)]
    layouts = (STATE.reduce(1), STATE.reduce(1), STATE.reduce(0))
    convolutions = [
        _convolution(old.tails.at[layer], old.taps.at[layer], *which)
        for which in zip(channels, layouts, strict=True)
    ]
    wait()
    q, k, v = (
        convolved(load(new.z.at[which], layout))
        for convolved, which, layout in zip(convolutions, channels, layouts, strict=True)
    )
    beta = beta_scale * sigmoid(new.z[3 * width + head])
    q, k = (over(x * lax.rsqrt(jnp.sum(x * x) + L2_EPS), shape, 0, STATE) for x in (q, k))
    write = beta * (v - jnp.sum(k * memory, axis=0))
    memory = memory + k * over(write, shape, 1, STATE)
    read = scale * jnp.sum(q * memory, axis=0)

    @pl.when(program.index < how.heads * pieces)
    def _():
        new.state[layer, head, :, values] = memory
        new.o[pl.ds(head * HEAD + first, how.values)] = read


def _keep_inputs(program: Program, old: Inputs, new: Outputs, layer):
    """Moves the tails on, 128 channels a program."""
    past, blocks = new.tails.shape[1], 3 * program.how.heads
    layout = plgpu.Layout.WG_STRIDED((HEAD,), vec_size=1)

    def move(block):
        channels = pl.ds(block * HEAD, HEAD)
        for place in range(past - 1):
            kept = load(old.tails.at[layer, place + 1, channels], layout)
            new.tails[layer, place, channels] = kept
        newest = load(new.z.at[channels], layout)
        new.tails[layer, past - 1, channels] = newest.astype(new.tails.dtype)

    for first in range(0, blocks, program.how.programs):
        block = first + program.index
        pl.when(block < blocks)(functools.partial(move, block))


def _layer(
    program: Program, meeting: kernel_program.Meeting, old: Inputs, new: Outputs, number, carry, *,
    scale: float, beta_scale: float,
):  # fmt: skip
    """One layer in the warpgroups that multiply; see README.md for what is computed."""
    how = program.how
    x, count = carry
    met = number * MEETINGS

    # 1. z = W norm(x)
    scales = old.mixer_scale.at[number]
    with jax.named_scope("give x"):
        pl.when(number == 0)(lambda: program.give_normed(old.x, scales))
        pl.when(number > 0)(lambda: program.give_normed(new.x, scales))
    with jax.named_scope("multiply first"):
        part, count = program.multiply(how.first, count)

    def store_z(z):
        z = z * program.factor()
        new.z[program.mine(how.first.rows)] = z
        meeting.arrive()

    with jax.named_scope("finish z"):
        program.finish(part, store_z)

    # 2. S, o = step(z, S)
    meet_z = functools.partial(meeting.wait, met + 1)

    @pl.when(program.warpgroup == 0)
    def _():
        with jax.named_scope("step"):
            _step(program, old, new, number, meet_z, scale, beta_scale)
            meeting.arrive()

    @pl.when(program.warpgroup > 0)
    def _():
        meet_z()
        pl.when(program.warpgroup == 1)(lambda: _keep_inputs(program, old, new, number))

    with jax.named_scope("meet o"):
        meeting.wait(met + 2)

    # 3. x1 = x + W norm(o), a norm a head
    with jax.named_scope("give o"):
        lines = program.lines(how.heads)
        o = kernel_rows.load_lines(new.o, lines, LINES)
        size = lax.rsqrt(jnp.sum(o * o, axis=1) * (1 / HEAD) + program.norm_eps)
        gain = load(old.head_scale.at[number], LINES.reduce(0)).astype(jnp.float32)
        program.give(o * over(size, o.shape, 0, LINES) * over(gain, o.shape, 1, LINES))
    with jax.named_scope("multiply out"):
        part, count = program.multiply(how.out, count)
    mine = program.mine(how.out.rows)

    def store_x1(y):
        new.x1[mine] = x + y
        meeting.arrive()

    with jax.named_scope("finish x1"):
        program.finish(part, store_x1)
    with jax.named_scope("meet x1"):
        meeting.wait(met + 3)

    # 4. h = silu(W_1 u) (W_2 u), u = norm(x1)
    with jax.named_scope("give x1"):
        program.give_normed(new.x1, old.mlp_scale.at[number])
    with jax.named_scope("multiply gate_up"):
        part, count = program.multiply(how.gate_up, count)

    def store_h(y):
        gate, up = kernel_rows.split(y * program.factor())
        new.h[program.mine(how.gate_up.rows // 2)] = gate * sigmoid(gate) * up
        meeting.arrive()

    with jax.named_scope("finish h"):
        program.finish(part, store_h)
    with jax.named_scope("meet h"):
        meeting.wait(met + 4)

    # 5. x = x1 + W h
    lines = program.lines(how.down.columns // HEAD)
    layout = plgpu.Layout.WG_STRIDED((lines.size, HEAD), vec_size=2 - lines.size % 2)
    with jax.named_scope("give h"):
        program.give(kernel_rows.load_lines(new.h, lines, layout))
    with jax.named_scope("multiply down"):
        part, count = program.multiply(how.down, count)

    def store_x(y):
        new.x[mine] = load(new.x1.at[mine], ROW) + y
        meeting.arrive()

    with jax.named_scope("finish x"):
        program.finish(part, store_x)
    with jax.named_scope("meet x"):
        meeting.wait(met + 5)
    return load(new.x.at[mine], ROW), count


def run(
    how: Plan,
    stream: Float[Array, "lines TILE"],
    mixer_scale: Float[Array, "L D"],
    head_scale: Float[Array, "L K"],
    mlp_scale: Float[Array, "L D"],
    taps: Float[Array, "L W channels"],
    x: Float[Array, "D"],
    tails: Float[Array, "L past channels"],
    state: Float[Array, "L H K V"],
    *,
    scale: float,
    beta_scale: float,
    norm_eps: float,
    interpret=None,
):
    """(x [D] float32, tails, state) after all layers.

    Args:
        how: of `how.programs` programs, all of which must run at the same time.
        stream: `layers_plan.pack` of every layer, one after the other, in a 16-bit dtype.
        mixer_scale, head_scale, mlp_scale: of the RMSNorms.
        taps: of the convolutions of q, k, v side by side; W >= 2.
        tails: inputs of the convolutions before this one, oldest first, in the stream's dtype.
        state: float32.
        interpret: for tests: programs are then a cluster's, which Mosaic's interpreter runs side by
            side, and `Meeting` has to be one of its barriers.
    """
    num_layers, heads = taps.shape[0], how.heads
    inputs = Inputs(
        stream,
        mixer_scale.reshape(num_layers, heads, HEAD),
        head_scale,
        mlp_scale.reshape(num_layers, heads, HEAD),
        taps,
        jnp.pad(x.astype(jnp.float32), (0, how.programs * how.out.rows - how.width)),
        tails,
        state,
    )

    def kernel(*refs):
        old, new = Inputs(*refs[: len(inputs)]), Outputs(*refs[len(inputs) :])

        def scoped(*scratch):
            shared = Shared(*scratch[: len(Shared._fields)])
            program = Program(how, shared, stream.dtype, norm_eps)
            meeting = kernel_program.Meeting(how.programs, *scratch[len(shared) :])

            @pl.when(program.warpgroup == how.warpgroups)
            def _():
                plgpu.set_max_registers(24, action="decrease")
                program.load_weights(old.stream, num_layers)

            @pl.when(program.warpgroup < how.warpgroups)
            def _():
                plgpu.set_max_registers(REGISTERS[how.warpgroups], action="increase")
                layer = functools.partial(
                    _layer, program, meeting, old, new, scale=scale, beta_scale=beta_scale
                )
                x = load(old.x.at[program.mine(how.out.rows)], ROW)
                lax.fori_loop(0, num_layers, layer, (x, jnp.int32(0)))

        longest = max(p.columns for p in how.products) // how.warpgroups
        pl.run_scoped(
            scoped,
            plgpu.SMEM(
                (SLOTS, how.slot_lines, TILE), stream.dtype, transforms=kernel_program.TRANSFORMS
            ),
            plgpu.SMEM((how.warpgroups, longest // HEAD, HEAD), stream.dtype),
            plgpu.SMEM((heads,), jnp.float32),
            plgpu.SMEM((how.warpgroups - 1, max(p.rows for p in how.products)), jnp.float32),
            plgpu.Barrier(num_arrivals=1, num_barriers=SLOTS),
            plgpu.Barrier(num_arrivals=1, num_barriers=SLOTS),
            plgpu.Barrier(num_arrivals=how.warpgroups - 1),
            *kernel_program.Meeting.scratch,
            collective_axes="wg",
        )

    def vector(rows):
        return jax.ShapeDtypeStruct((how.programs * rows,), jnp.float32)

    kinds = {"grid": (how.programs,), "grid_names": ("g",)}
    if interpret is not None:
        kinds = {"cluster": (how.programs,), "cluster_names": ("g",), "interpret": interpret}
    outputs = plgpu.kernel(
        kernel,
        out_type=Outputs(
            vector(how.out.rows),
            jax.ShapeDtypeStruct(tails.shape, tails.dtype),
            jax.ShapeDtypeStruct(state.shape, state.dtype),
            *map(vector, (how.first.rows, how.out.rows, how.out.rows, how.gate_up.rows // 2)),
        ),
        num_threads=how.warpgroups + 1,
        thread_name="wg",
        compiler_params=plgpu.CompilerParams(approx_math=True),
        **kinds,
    )(*inputs)
    x, tails, state = outputs[:3]
    return x[: how.width], tails, state
