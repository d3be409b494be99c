# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""How calls are timed: the same protocol for ours and for every peer.

On a GPU, per repetition and all on the stream that the call runs on:
    runway: device-to-device copies, which overwrite the L2 cache and keep the device busy while
        the host enqueues the rest;  event;  the call, on the next set of inputs;  event.
The time is between the two events: all kernels of the call and the gaps between them, but no time
in which the device waits for the host. Whether the host was in fact ahead (the first event not
yet reached when the second was enqueued) is checked in every repetition and recorded.

Beside it, by the host's clock, calls one after the other on the same sets: what a program sees
that does nothing else. There the host's part counts wherever the device is faster.

Without a GPU, the host's clock around single calls.
"""

import functools
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax

from experiments.benchmarks import cuda

Call = Callable[[], object]
EVENTS = "events on the call's stream, device busy before, L2 overwritten, inputs rotated"
HOST = "host clock around single calls, inputs rotated"
_RUNWAY_BYTES = 2**29
_MAX_RUNWAY = 200  # copies; the queue of a stream is finite
_CALLS_IN_A_ROW = 10
_MIN_REPETITIONS = 5


@dataclass(frozen=True)
class Times:
    """Times of one implementation.

    Attributes:
        method: EVENTS or HOST.
        ms: milliseconds of every repetition, in order.
        host_ahead: share of repetitions in which the device never waited for the host; None
            without a GPU.
        in_a_row_ms: milliseconds a call, of batches of calls one after the other.
        last: what the last timed repetition returned, for the first set of inputs.
    """

    method: str
    ms: list[float]
    host_ahead: float | None
    in_a_row_ms: list[float]
    last: object

    @property
    def median_ms(self) -> float:
        return statistics.median(self.ms)

    def summary(self) -> dict[str, object]:
        """Plain JSON values, in milliseconds to 10 nanoseconds."""
        low, median, high = (
            statistics.quantiles(self.ms, n=4, method="inclusive")
            if len(self.ms) > 1
            else self.ms * 3
        )
        return {
            "method": self.method,
            "median_ms": round(median, 5),
            "quartiles_ms": [round(low, 5), round(high, 5)],
            "range_ms": [round(min(self.ms), 5), round(max(self.ms), 5)],
            "times_ms": [round(t, 5) for t in self.ms],
            "host_ahead": self.host_ahead,
            "in_a_row_ms": [round(t, 5) for t in self.in_a_row_ms],
        }


class HostStream:
    """Calls that are waited for by `jax.block_until_ready`; nothing is enqueued between them."""

    def wait(self, results: object) -> None:
        jax.block_until_ready(results)


class Clock:
    """Times calls by CUDA events if JAX runs on a GPU, else by the host's clock.

    Attributes:
        on_device: which of the two.
        copy_ms, copy_bytes: time and size of one of the runway's copies; None without a GPU.
    """

    def __init__(self):
        self.on_device = jax.default_backend() == "gpu"
        self.copy_ms = self.copy_bytes = None
        if self.on_device:
            self._copy = cuda.Copy(_RUNWAY_BYTES)
            self.copy_bytes = _RUNWAY_BYTES
            self._streams = {"jax": cuda.JaxStream(), "torch": cuda.TorchStream()}
            stream = self._streams["jax"]
            copy = functools.partial(stream.do, self._copy.enqueue)
            self.copy_ms = statistics.median(
                self._between_events(stream, 4, copy)[0] for _ in range(20)
            )
        else:
            self._streams = {"jax": HostStream()}

    def rotation(self, input_bytes: int) -> int:
        """How many sets of inputs: at least 2, and three times the L2 between uses of one."""
        if not self.on_device:
            return 2
        return max(2, 1 + math.ceil(3 * cuda.l2_bytes() / input_bytes))

    def time(
        self,
        calls: Sequence[Call],
        *,
        framework: str = "jax",
        repetitions: int,
        max_seconds: float = math.inf,
    ) -> Times:
        """Times `calls`, one for each set of inputs, in turns.

        Args:
            calls: each enqueues its work and returns its results without waiting.
            framework: whose calls, "jax" or "torch".
            repetitions: timed calls; fewer, but at least 5, where they would take longer than
                `max_seconds`.
        """
        stream = self._streams[framework]
        host_ms = []
        for _ in range(2):  # warms up
            for call in calls:
                begin = time.perf_counter()
                last = call()
                host_ms.append((time.perf_counter() - begin) * 1e3)
                stream.wait(last)
                seconds = time.perf_counter() - begin
        affordable = max(_MIN_REPETITIONS, max_seconds / seconds)
        count = int(min(repetitions, affordable))
        if self.on_device:  # twice as long as the host needs to enqueue a call, and 1 ms
            runway = math.ceil((2 * max(host_ms[len(calls) :]) + 1) / self.copy_ms)
            runway = min(_MAX_RUNWAY, runway)
        ms, ahead = [], 0
        for i in reversed(range(count)):
            del last
            call = calls[i % len(calls)]
            if self.on_device:
                one, was_ahead, last = self._between_events(stream, runway, call)
                ahead += was_ahead
            else:
                begin = time.perf_counter()
                last = jax.block_until_ready(call())
                one = (time.perf_counter() - begin) * 1e3
            ms.append(one)
        return Times(
            method=EVENTS if self.on_device else HOST,
            ms=ms,
            host_ahead=round(ahead / count, 3) if self.on_device else None,
            in_a_row_ms=self._in_a_row(calls, stream, count),
            last=last,
        )

    def _between_events(self, stream, runway: int, call: Call) -> tuple[float, bool, object]:
        """Milliseconds of the call, whether the host was ahead, the call's results."""
        start, end = cuda.Event(), cuda.Event()
        stream.do(lambda s: self._copy.enqueue(s, runway))
        stream.do(start.record)
        results = call()
        stream.do(end.record)
        ahead = not start.reached()
        stream.wait(results)
        end.wait()
        return end.ms_since(start), ahead, results

    def _in_a_row(self, calls: Sequence[Call], stream, repetitions: int) -> list[float]:
        in_a_row = min(repetitions, _CALLS_IN_A_ROW)
        ms = []
        for _ in range(repetitions // in_a_row):
            begin = time.perf_counter()
            for i in range(in_a_row):
                results = calls[i % len(calls)]()
            stream.wait(results)
            ms.append((time.perf_counter() - begin) / in_a_row * 1e3)
        return ms
