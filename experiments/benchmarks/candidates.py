# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""An implementation made ready to be timed: one call per set of inputs, first call, memory.

Memory is the same quantity on both sides: the largest number of bytes held on the device at once
during a call, less inputs and results. For JAX the compiler lays this out (`temp_size_in_bytes`);
for PyTorch the allocator counts it.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from experiments.benchmarks.operation import Arrays, Inputs, Operation, Peer, timed_call
from experiments.benchmarks.timing import Call


@dataclass(frozen=True)
class Candidate:
    """What `timing.Clock.time` needs, and what is known before.

    Attributes:
        name: implementation, as in records.
        framework: "jax" or "torch".
        calls: one for each set of inputs.
        first_call_s: seconds from nothing compiled to the first result: for JAX tracing, compiling
            and running; for PyTorch the first call, with Triton's tuning unless that is cached.
            None if other programs were compiled at the same time.
        memory_bytes: see above.
        to_jax: turns what a call returns into JAX arrays.
        kernels: name and milliseconds of every GPU kernel of a call; None where it is not known.
    """

    name: str
    framework: str
    calls: list[Call]
    first_call_s: float | None
    memory_bytes: int
    to_jax: Callable[[tuple], Arrays] = tuple
    kernels: Callable[[], list[tuple[str, float]]] | None = None


def ours(operation: Operation, mode: str, sets: Sequence[Inputs]) -> tuple[Candidate, list[str]]:
    """Our best implementation that takes these inputs, and why better ones do not."""
    refusals = []
    for name, function in operation.implementations.items():
        try:
            return from_jax(name, function, mode, sets), refusals
        except NotImplementedError as error:
            refusals.append(str(error))
    raise NotImplementedError(f"{operation.name}: " + "; ".join(refusals))


def from_jax(name: str, function: Callable, mode: str, sets: Sequence[Inputs]) -> Candidate:
    """A JAX function of args and constants."""
    start = time.perf_counter()
    compiled = jax.jit(timed_call(function, mode)).lower(sets[0]).compile()
    jax.block_until_ready(compiled(sets[0]))
    first_call_s = round(time.perf_counter() - start, 3)
    return Candidate(
        name=name,
        framework="jax",
        calls=[lambda inputs=inputs: compiled(inputs) for inputs in sets],
        first_call_s=first_call_s,
        memory_bytes=compiled.memory_analysis().temp_size_in_bytes,
        kernels=lambda: _kernels(compiled, sets[0]),
    )


def _kernels(compiled, inputs: Inputs) -> list[tuple[str, float]]:
    from jax.experimental.mosaic.gpu import profiler  # not everywhere

    _, kernels = profiler.measure(compiled, aggregate=False)(inputs)
    return [(name, round(ms, 5)) for name, ms in kernels]


def from_torch(name: str, peer: Peer, mode: str, sets: Sequence[Inputs]) -> Candidate:
    """A PyTorch function of args and constants, on the very memory of JAX's arrays."""
    import torch

    function = peer.load()

    def call(inputs: Inputs) -> Call:
        args, cotangents, constants = (
            tuple(torch.from_dlpack(x) for x in group) for group in inputs
        )
        args = peer.give(args) if peer.give else args
        leaves = tuple(x.detach().requires_grad_(mode != "forward") for x in args)

        def forward():
            with torch.no_grad():
                return function(*leaves, *constants)

        def vjp():  # of a forward that has been and is not timed
            return torch.autograd.grad(kept, leaves, cotangents, retain_graph=True)

        def forward_and_vjp():
            outputs = function(*leaves, *constants)
            return *outputs, *torch.autograd.grad(outputs, leaves, cotangents)

        kept = function(*leaves, *constants) if mode == "vjp" else None
        return {"forward": forward, "vjp": vjp, "forward_and_vjp": forward_and_vjp}[mode]

    def to_jax(results: tuple) -> Arrays:
        results = peer.take(mode, results) if peer.take else results
        return tuple(jnp.from_dlpack(x.detach().contiguous()) for x in results)

    start = time.perf_counter()
    calls = [call(inputs) for inputs in sets]
    calls[0]()
    torch.cuda.synchronize()
    first_call_s = round(time.perf_counter() - start, 3)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    results = calls[0]()
    torch.cuda.synchronize()
    size = sum(x.numel() * x.element_size() for x in results)
    memory_bytes = torch.cuda.max_memory_allocated() - before - size
    del results
    return Candidate(
        name=name,
        framework="torch",
        calls=calls,
        first_call_s=first_call_s,
        memory_bytes=memory_bytes,
        to_jax=to_jax,
    )


def from_peer(name: str, peer: Peer, mode: str, sets: Sequence[Inputs]) -> Candidate:
    """A peer whose package is there; else ImportError."""
    if peer.framework == "torch":
        return from_torch(name, peer, mode, sets)
    return from_jax(name, peer.load(), mode, sets)
