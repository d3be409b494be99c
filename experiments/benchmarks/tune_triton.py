# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Times tiles of the delta rule's Triton kernels: python -m experiments.benchmarks.tune_triton

For each of --shapes (some of the axes choose among the benchmark's) every kernel is timed with each
tile below, the others' results given, and the tiles are printed, fastest first; the one that
`triton_support.tile` would take is marked. Nothing is written: the table there is changed by hand.
Last, each of the switches of triton_vjp.py the other way round.
"""

import functools
import itertools
import sys
from collections.abc import Callable, Iterator

import jax
from absl import flags

from experiments.benchmarks.delta_rule import DELTA_RULE
from experiments.benchmarks.flags import define_benchmark_flags
from experiments.benchmarks.operation import parse_shapes, show_shape
from experiments.benchmarks.timing import Clock
from experiments.command import run
from experiments.flags import explain
from experiments.logs import quiet_logs
from pallas_kernels._common import triton_device
from pallas_kernels._common.triton_device import Tile
from pallas_kernels.delta_rule import triton_support

# Block sizes of keys and of values, warps, stages; 0 where a kernel has no such block.
CANDIDATES = {
    "correction": ((64, 128), (0,), (1, 2), (1,)),
    "prepare": ((64, 128), (64,), (4, 8), (1, 2)),
    "forward": ((0,), (16, 32, 64), (4, 8), (1, 2)),
    "reverse": ((0,), (16, 32, 64), (4, 8), (1, 2)),
    "output": ((64, 128), (64,), (4, 8), (1, 2)),
    "gradients": ((64, 128), (32, 64), (4, 8), (1, 2)),
}
SWITCHES = ("SPLIT_PREPARE", "SPLIT_FORWARD", "SPLIT_REVERSE")


def steps(inputs, scale: float) -> Iterator[tuple[str, Callable, tuple]]:
    """Every kernel as (its name, a function, the function's arguments), in order."""
    from pallas_kernels.delta_rule import triton_vjp

    (q, k, v, beta, state), (do, dstate) = inputs.args, inputs.cotangents
    options = triton_vjp._Options(scale, False, triton_device.capability())
    problem = triton_vjp._Problem(q, v, None, options)

    def prepare(q, k, v, beta):
        return triton_vjp._prepare(problem, q, k, v, beta, beta)

    def forward(q, k, v, beta, state, chunks, output):
        args = (q, k, v, beta, beta, state, chunks)
        return triton_vjp._pass(problem, *args, output=output, save=not output)

    def outputs(q, v, beta, chunks, d, states):
        return triton_vjp._outputs(problem, q, v, beta, beta, chunks, d, states)

    def reverse(q, k, beta, chunks, do, dstate):
        return triton_vjp._reverse(problem, q, k, beta, beta, chunks, do, dstate)

    def gradients(q, k, v, beta, do, d, dx, states, dstates):
        return triton_vjp._parallel_gradients(
            problem, q, k, v, beta, beta, do, d, dx, states, dstates
        )

    chunks = jax.jit(prepare)(q, k, v, beta)
    yield "correction", prepare, (q, k, v, beta)
    yield "prepare", prepare, (q, k, v, beta)
    args = (q, k, v, beta, state, chunks)
    for output in (True, False):
        yield "forward", functools.partial(forward, output=output), args
    _, d, states, _ = jax.jit(functools.partial(forward, output=False))(*args)
    yield "output", outputs, (q, v, beta, chunks, d, states)
    args = (q, k, beta, chunks, do, dstate)
    yield "reverse", reverse, args
    dx, dstates, _ = jax.jit(reverse)(*args)
    yield "gradients", gradients, (q, k, v, beta, do, d, dx, states, dstates)


def milliseconds(function: Callable, args: tuple, values: flags.FlagValues, clock: Clock) -> float:
    """Median time of `function`, traced anew."""
    compiled = jax.jit(lambda *args: function(*args)).lower(*args).compile()
    return clock.time(
        [lambda: compiled(*args)], repetitions=values.repetitions, max_seconds=values.max_seconds
    ).median_ms


def tune(shape: dict[str, int], values: flags.FlagValues, clock: Clock) -> None:
    """Prints the times of all candidates of one shape."""
    from pallas_kernels.delta_rule import triton_vjp

    inputs = DELTA_RULE.make_inputs(jax.random.key(0), shape)
    key_size, few = shape["K"], shape["B"] * shape["H"] <= triton_support.FEW_HEADS
    for name, function, args in steps(inputs, key_size**-0.5):
        default = triton_support.tile(name, key_size, 2, triton_device.capability(), few)
        times = {}
        for tile in itertools.starmap(Tile, itertools.product(*CANDIDATES[name])):
            if tile.block_k > key_size:
                continue
            triton_support.OVERRIDES[name] = tile
            try:
                times[tile] = milliseconds(function, args, values, clock)
            except Exception as error:  # too much shared memory, say; the others are worth knowing
                print(f"  {name} {tuple(tile)}: {type(error).__name__}", flush=True)
        triton_support.OVERRIDES.clear()
        for tile, ms in sorted(times.items(), key=lambda item: item[1])[:8]:
            mark = " (taken)" if tile == default else ""
            print(f"{show_shape(shape)} {name} {tuple(tile)}: {ms:.4f} ms{mark}", flush=True)
        if default in times:
            print(f"{show_shape(shape)} {name} taken: {times[default]:.4f} ms", flush=True)
    for switch in (None, *SWITCHES):
        kept = {name: getattr(triton_vjp, name) for name in SWITCHES}
        if switch:
            setattr(triton_vjp, switch, not kept[switch])
        for name, function, args in steps(inputs, key_size**-0.5):
            if name != "correction":
                ms = milliseconds(function, args, values, clock)
                print(f"{show_shape(shape)} {switch} turned, {name}: {ms:.4f} ms", flush=True)
        for name, value in kept.items():
            setattr(triton_vjp, name, value)


def main(argv: list[str]) -> None:
    del argv
    quiet_logs()
    values = flags.FLAGS
    if not triton_device.installed() or triton_device.capability() is None:
        sys.exit(f"error: needs an NVIDIA GPU and jax-triton: {triton_device.INSTALL}")
    try:
        shapes = parse_shapes(DELTA_RULE, values.shapes, DELTA_RULE.shapes)
    except ValueError as error:
        sys.exit(f"error: {explain(error)}")
    jax.config.update("jax_enable_compilation_cache", False)
    clock = Clock()
    for shape in shapes:
        tune(shape, values, clock)


if __name__ == "__main__":
    define_benchmark_flags()
    run(main)
