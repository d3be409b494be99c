# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Times operators beside their peers: python -m experiments.benchmarks.run --op=delta_rule

For every shape and mode, ours and each peer that can be imported, in one process on the same
inputs: times (timing.py says how), RMS errors of the very call that was timed last, the share of
the floor that was reached, memory, seconds to the first result. A row is printed, and with
--record_dir written, as soon as it is finished. A row with an RMS error above 1e-2 is refused:
reported, not written; the exit code is then 1, as it is if anything else failed.

Floors: the larger of bytes (operation.floor_bytes) over the bandwidth of a large copy and of the
operator's FLOP over the rate of a large bfloat16 matrix product, both measured at the start.

With --compile_jobs programs and references of all shapes are made beforehand, several at a time;
nothing is timed until all are there, and rows then have no seconds to the first result. With
--start_file nothing is timed until that file exists: for a machine that is still at other work.

FLA tunes its kernels for a minute or two at the first call of each head size; it keeps what it
found in TRITON_CACHE_DIR (~/.triton/cache), the *.autotune.json files are enough.
"""

import concurrent.futures
import dataclasses
import functools
import logging
import os
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
from absl import flags
from tqdm import tqdm

from experiments.benchmarks import candidates, records
from experiments.benchmarks.candidates import Candidate
from experiments.benchmarks.flags import define_benchmark_flags
from experiments.benchmarks.operation import (
    MODES,
    Inputs,
    Operation,
    Reference,
    Shape,
    floor_bytes,
    parse_shapes,
    rms_error,
    show_shape,
)
from experiments.benchmarks.registry import OPERATIONS
from experiments.benchmarks.timing import Clock
from experiments.command import run
from experiments.flags import explain
from experiments.logs import quiet_logs

LARGEST_ERROR = 1e-2
LARGEST_REFERENCE_ERROR = 1e-4
logger = logging.getLogger("experiments.benchmarks")


def measure_rates(clock: Clock, reduced: bool) -> dict[str, float]:
    """Bytes/s of a large copy (read and written) and FLOP/s of a large bfloat16 product."""
    size = 2**20 if reduced else 2**29
    x = jax.random.normal(jax.random.key(0), (size,), jnp.bfloat16)
    negate = jax.jit(lambda x: -x)
    copy = clock.time([lambda: negate(x)], repetitions=20)
    size = 256 if reduced else 8192
    a, b = (jax.random.normal(jax.random.key(i), (size, size), jnp.bfloat16) for i in (1, 2))
    multiply = jax.jit(jnp.dot)
    product = clock.time([lambda: multiply(a, b)], repetitions=20)
    bytes_per_s = 2 * x.nbytes / copy.median_ms * 1e3
    if clock.copy_ms is not None:
        bytes_per_s = max(bytes_per_s, 2 * clock.copy_bytes / clock.copy_ms * 1e3)
    return {"bytes_per_s": bytes_per_s, "flop_per_s": 2 * size**3 / product.median_ms * 1e3}


def modes(operation: Operation, values: flags.FlagValues) -> list[str]:
    """What of an operation is timed."""
    return [mode for mode in operation.modes if values.modes is None or mode in values.modes]


def floor(operation: Operation, shape: Shape, inputs: Inputs, mode: str, rates) -> dict:
    """Bytes, FLOP and the milliseconds each takes at the measured rates."""
    moved, work = floor_bytes(inputs, mode), operation.flop(shape, mode)
    return {
        "bytes": moved,
        "flop": work,
        "bytes_ms": round(moved / rates["bytes_per_s"] * 1e3, 5),
        "flop_ms": round(work / rates["flop_per_s"] * 1e3, 5),
    }


class Bench:
    """One run over operations, shapes and modes."""

    def __init__(self, values: flags.FlagValues):
        self.values = values
        self.failures: list[str] = []
        self.refusals: set[str] = set()
        self.ahead: dict[tuple[str, str], tuple[list[Inputs], dict]] = {}
        self.clock = Clock()
        self.machine = records.machine(values.commit)

    def start(self) -> None:
        """Waits until the machine is quiet; measures what floors are counted with."""
        while self.values.start_file and not Path(self.values.start_file).exists():
            time.sleep(0.2)
        self.clock = Clock()
        self.rates = measure_rates(self.clock, self.values.reduced)
        logger.info(
            "%s: copy %.0f GB/s, bfloat16 product %.0f TFLOP/s",
            self.machine["device"],
            self.rates["bytes_per_s"] / 1e9,
            self.rates["flop_per_s"] / 1e12,
        )

    def peers(self, operation: Operation) -> dict[str, candidates.Peer]:
        """The ones that were asked for and can be imported."""
        found = {}
        for name, peer in operation.peers.items():
            if self.values.peers is not None and name not in self.values.peers:
                continue
            try:
                peer.load()
            except (ImportError, RuntimeError) as error:  # Triton raises without a driver
                logger.info("%s: without %s (%s)", operation.name, name, error)
                continue
            found[name] = peer
        return found

    def inputs(self, operation: Operation, shape: Shape) -> list[Inputs]:
        """As many sets as are needed to come back to the first one after the L2 has forgotten."""
        one = operation.make_inputs(jax.random.key(0), shape)
        count = self.clock.rotation(sum(x.nbytes for x in jax.tree.leaves(one)))
        return [one] + [operation.make_inputs(jax.random.key(i), shape) for i in range(1, count)]

    def compile_ahead(self, work: list[tuple[Operation, tuple[Shape, ...], dict]]) -> None:
        """Makes the candidates of ours and the references of all shapes, --compile_jobs at once."""
        with (
            concurrent.futures.ThreadPoolExecutor(self.values.compile_jobs) as pool,
            tqdm(unit="program", desc="compile", file=sys.stderr) as progress,
        ):
            for operation, shapes, peers in work:
                for shape in shapes:
                    sets = self.inputs(operation, shape)
                    makers = {"reference": functools.partial(self.reference, operation, sets[0])}
                    for mode in modes(operation, self.values):
                        makers[mode, "ours"] = functools.partial(self.ours, operation, mode, sets)
                        for name, peer in peers.items():
                            if peer.framework == "jax" and mode in peer.modes:
                                makers[mode, name] = functools.partial(
                                    candidates.from_peer, name, peer, mode, sets
                                )
                    key = operation.name, show_shape(shape)
                    self.ahead[key] = sets, {k: pool.submit(f) for k, f in makers.items()}
            futures = [future for _, made in self.ahead.values() for future in made.values()]
            progress.total = len(futures)
            for _ in concurrent.futures.as_completed(futures):
                progress.update()

    def shape(self, operation: Operation, shape: Shape, peers: dict, progress: tqdm) -> None:
        """All modes and implementations of one shape."""
        sets, ahead = self.ahead.pop((operation.name, show_shape(shape)), (None, {}))
        sets = sets or self.inputs(operation, shape)
        make = ahead["reference"].result if ahead else lambda: operation.reference(sets[0])
        try:
            reference = make()
        except Exception as error:  # the other shapes are still worth having
            logger.exception("%s", show_shape(shape))
            self.fail(f"{operation.name} {show_shape(shape)}: no reference, {type(error).__name__}")
            return
        if not reference.error <= LARGEST_REFERENCE_ERROR:
            self.fail(f"{show_shape(shape)}: the reference's error is {reference.error:.1e}")
            return
        # The longer program first: what it compiles, the shorter one may find compiled.
        for mode in sorted(modes(operation, self.values), key=MODES.index, reverse=True):
            makers = {"ours": functools.partial(self.ours, operation, mode, sets)}
            for name, peer in peers.items():
                if mode in peer.modes:
                    makers[name] = functools.partial(candidates.from_peer, name, peer, mode, sets)
            for name in makers:
                if (mode, name) in ahead:
                    makers[name] = functools.partial(self.finished, ahead[mode, name])
            for name, make in makers.items():
                where = f"{operation.name} {show_shape(shape)} {mode} {name}"
                progress.set_postfix_str(where.split(" ", 1)[1])
                try:
                    self.row(operation, shape, mode, make(), sets, reference)
                except NotImplementedError as error:
                    logger.info("%s: %s", where, error)
                    if name == "ours":
                        self.fail(f"{where}: {error}")
                except Exception as error:  # the other rows are still worth having
                    logger.exception("%s", where)
                    self.fail(f"{where}: {type(error).__name__}")
                progress.update()

    def reference(self, operation: Operation, inputs: Inputs) -> Reference:
        """The reference; what compares with it is compiled, too."""
        reference = operation.reference(inputs)
        for x in reference.results:
            rms_error(x.astype(jnp.bfloat16), x)
        return reference

    def finished(self, future: concurrent.futures.Future) -> Candidate:
        """One compiled ahead: its first call's time says nothing, others were compiled with it."""
        return dataclasses.replace(future.result(), first_call_s=None)

    def ours(self, operation: Operation, mode: str, sets: list[Inputs]) -> Candidate:
        candidate, refusals = candidates.ours(operation, mode, sets)
        for refusal in refusals:
            if refusal not in self.refusals:
                logger.info("%s", refusal)
                self.refusals.add(refusal)
        return candidate

    def row(
        self,
        operation: Operation,
        shape: Shape,
        mode: str,
        candidate: Candidate,
        sets: list[Inputs],
        reference: Reference,
    ) -> None:
        """Times a candidate, compares, prints, writes."""
        times = self.clock.time(
            candidate.calls,
            framework=candidate.framework,
            repetitions=self.values.repetitions,
            max_seconds=self.values.max_seconds,
        )
        names = operation.names(mode)
        results = candidate.to_jax(times.last)
        errors = {
            name: rms_error(x, y)
            for name, x, y in zip(
                names, results, operation.pick(mode, reference.results), strict=True
            )
        }
        limits = floor(operation, shape, sets[0], mode, self.rates)
        fraction = max(limits["bytes_ms"], limits["flop_ms"]) / times.median_ms
        summary = times.summary()
        worst = max(errors, key=errors.get)
        line = (
            f"{operation.name} {show_shape(shape)} {mode} {candidate.name}: "
            f"{times.median_ms:.4f} ms ({summary['quartiles_ms'][0]:.4f} to "
            f"{summary['quartiles_ms'][1]:.4f}; in a row {min(times.in_a_row_ms):.4f}), "
            f"{fraction:.0%} of the floor, error {errors[worst]:.1e} ({worst}), "
            f"{candidate.memory_bytes / 2**20:.0f} MiB"
        )
        if candidate.first_call_s is not None:
            line += f", first {candidate.first_call_s:.1f} s"
        tqdm.write(line, file=sys.stdout)
        kernels = None
        if self.values.kernels and candidate.kernels is not None:
            kernels = candidate.kernels()
            for name, ms in kernels:
                tqdm.write(f"    {ms:9.4f} ms  {name[:90]}", file=sys.stdout)
        sys.stdout.flush()
        if not errors[worst] <= LARGEST_ERROR:
            self.fail(f"refused, wrong: {line}")
            return
        if not self.values.record_dir:
            return
        row = {
            "op": operation.name,
            "shape": shape,
            "dtype": "bfloat16",
            "mode": mode,
            "implementation": candidate.name,
            **summary,
            "input_sets": len(sets),
            "floor": limits,
            "fraction_of_floor": round(fraction, 4),
            "rates": self.rates,
            "rms_error": errors,
            "reference": {
                "kind": reference.kind,
                "checked_against": reference.checked_against,
                "error": reference.error,
            },
            "memory_bytes": candidate.memory_bytes,
            "first_call_s": candidate.first_call_s,
            "kernels_ms": kernels,
            "run": self.machine["date"],
        }
        records.append(Path(self.values.record_dir), row | self.machine | {"date": records.now()})

    def fail(self, what: str) -> None:
        self.failures.append(what)
        tqdm.write(f"FAILED {what}", file=sys.stderr)


def plan(values: flags.FlagValues) -> list[tuple[Operation, tuple[Shape, ...]]]:
    """Operations and their shapes from the flags; ValueError starts with the flag's name."""
    peers = {name for operation in OPERATIONS.values() for name in operation.peers}
    for name, wanted in (("op", set(OPERATIONS)), ("modes", set(MODES)), ("peers", peers)):
        for value in getattr(values, name) or ():
            if value not in wanted:
                raise ValueError(f"{name}: wanted some of {sorted(wanted)}, got {value!r}")
    chosen = []
    for name in values.op:
        operation = OPERATIONS[name]
        defaults = operation.reduced_shapes if values.reduced else operation.shapes
        chosen.append((operation, parse_shapes(operation, values.shapes, defaults)))
    return chosen


def main(argv: list[str]) -> None:
    del argv
    quiet_logs()
    values = flags.FLAGS
    try:
        chosen = plan(values)
    except ValueError as error:
        sys.exit(f"error: {explain(error)}")
    # PyTorch needs room on the same device, and the first call is timed without a cache.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    jax.config.update("jax_enable_compilation_cache", False)
    bench = Bench(values)
    work = [(operation, shapes, bench.peers(operation)) for operation, shapes in chosen]
    total = sum(
        len(shapes) * (1 + sum(mode in peer.modes for peer in peers.values()))
        for operation, shapes, peers in work
        for mode in modes(operation, values)
    )
    if values.compile_jobs:
        bench.compile_ahead(work)
    bench.start()
    with tqdm(total=total, unit="row", file=sys.stderr) as progress:
        for operation, shapes, peers in work:
            for shape in shapes:
                bench.shape(operation, shape, peers, progress)
    if bench.failures:
        sys.exit("\n".join(["error: not all rows are there:", *bench.failures]))


if __name__ == "__main__":
    define_benchmark_flags()
    run(main)
