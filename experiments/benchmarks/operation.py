# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""What a benchmark case says of its operator; one file per operator makes one or more of these."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Shape = dict[str, int]
Arrays = tuple[jax.Array, ...]
MODES = ("forward", "vjp", "forward_and_vjp")


class Inputs(NamedTuple):
    """One set of inputs of a timed call.

    Attributes:
        args: what the operator takes and is differentiated by.
        cotangents: one for each output; not used by "forward".
        constants: further operands without a derivative.
    """

    args: Arrays
    cotangents: Arrays
    constants: Arrays = ()


class Reference(NamedTuple):
    """Results to compare with, and how far they can be trusted.

    Attributes:
        results: outputs and gradients, as of "forward_and_vjp", in float32 or wider.
        kind: what computed them.
        checked_against: what computed the same on a slice, in float64.
        error: largest RMS error there, over all results.
    """

    results: Arrays
    kind: str
    checked_against: str
    error: float


@dataclass(frozen=True)
class Peer:
    """Somebody else's implementation, or a slower one of ours.

    Attributes:
        load: imports it and returns the function: args, constants -> outputs. May raise
            ImportError.
        framework: whose arrays it takes, "torch" (differentiated by autograd) or "jax".
        modes: what it can do.
        give: turns args into its own layout before it is timed; None where that is ours.
        take: mode, results -> results in our layout, after it was timed.
    """

    load: Callable[[], Callable[..., tuple]]
    framework: str = "torch"
    modes: tuple[str, ...] = MODES
    give: Callable[[tuple], tuple] | None = None
    take: Callable[[str, tuple], tuple] | None = None


@dataclass(frozen=True)
class Operation:
    """An operator to be timed.

    Attributes:
        name: in flags and records; the records' file is named after it.
        axes: letters of a shape, in order.
        shapes: timed by default.
        reduced_shapes: a size for trying out, also without a GPU.
        modes: of MODES, what is timed by default.
        make_inputs: key, shape -> Inputs.
        implementations: ours by name, best first. The first that does not refuse the arguments by
            NotImplementedError is timed.
        outputs, arguments: names of what `implementations` return and of `Inputs.args`.
        reference: Inputs -> Reference.
        flop: shape, mode -> the fewest floating-point operations.
        peers: by name.
    """

    name: str
    axes: str
    shapes: tuple[Shape, ...]
    reduced_shapes: tuple[Shape, ...]
    modes: tuple[str, ...]
    make_inputs: Callable[[jax.Array, Shape], Inputs]
    implementations: Mapping[str, Callable[..., Arrays]]
    outputs: tuple[str, ...]
    arguments: tuple[str, ...]
    reference: Callable[[Inputs], Reference]
    flop: Callable[[Shape, str], int]
    peers: Mapping[str, Peer] = field(default_factory=dict)

    def pick(self, mode: str, everything: Sequence) -> Sequence:
        """Of one thing for each output and each gradient, those that a call in `mode` returns."""
        outputs = len(self.outputs)
        return {
            "forward": everything[:outputs],
            "vjp": everything[outputs:],
            "forward_and_vjp": everything,
        }[mode]

    def names(self, mode: str) -> Sequence[str]:
        """Names of the results of a call."""
        return self.pick(mode, (*self.outputs, *(f"d{name}" for name in self.arguments)))


def timed_call(function: Callable[..., Arrays], mode: str) -> Callable[[Inputs], Arrays]:
    """What is timed in `mode`: "forward" the outputs, "vjp" every gradient from nothing but the
    inputs, "forward_and_vjp" both."""

    def forward(inputs: Inputs) -> Arrays:
        return function(*inputs.args, *inputs.constants)

    def forward_and_vjp(inputs: Inputs) -> Arrays:
        outputs, vjp = jax.vjp(lambda *args: function(*args, *inputs.constants), *inputs.args)
        return *outputs, *vjp(inputs.cotangents)

    def vjp(inputs: Inputs) -> Arrays:
        return forward_and_vjp(inputs)[-len(inputs.args) :]

    return {"forward": forward, "vjp": vjp, "forward_and_vjp": forward_and_vjp}[mode]


def rms_error(actual, wanted) -> float:
    """||actual - wanted|| / ||wanted||, infinite if that is no number; NumPy arrays in their
    dtype, JAX arrays in float32 on their device."""
    if isinstance(wanted, jax.Array):
        actual, wanted = (jnp.ravel(x).astype(jnp.float32) for x in (actual, wanted))
        error = float(jnp.linalg.norm(actual - wanted) / jnp.linalg.norm(wanted))
    else:
        error = float(np.linalg.norm(actual - wanted) / np.linalg.norm(wanted))
    return error if np.isfinite(error) else math.inf


def floor_bytes(inputs: Inputs, mode: str) -> int:
    """The fewest bytes a call can move: every operand read once, every result written once.

    "forward" reads args and constants and writes the outputs; "vjp" reads args, constants and
    cotangents and writes a gradient of each argument's size; "forward_and_vjp" does one after the
    other, with nothing kept between them. Outputs are as large as their cotangents.
    """

    def size(arrays) -> int:
        return sum(math.prod(x.shape) * x.dtype.itemsize for x in arrays)

    operands = size(inputs.args) + size(inputs.constants)
    forward = operands + size(inputs.cotangents)
    vjp = operands + size(inputs.cotangents) + size(inputs.args)
    return {"forward": forward, "vjp": vjp, "forward_and_vjp": forward + vjp}[mode]


def parse_shapes(operation: Operation, texts: Sequence[str], defaults: tuple[Shape, ...]):
    """Shapes from texts like B16T2048H16K128V128; one with some of the axes chooses defaults.

    Raises:
        ValueError: an axis is unknown, or nothing is chosen; starts with "shapes".
    """
    shapes: list[Shape] = []
    for text in texts:
        found = re.findall(r"([A-Z])([1-9][0-9]*)", text)
        shape = {axis: int(size) for axis, size in found}
        if "".join(a + s for a, s in found) != text or not set(shape) <= set(operation.axes):
            raise ValueError(
                f"shapes: wanted sizes of the axes {operation.axes} of {operation.name}, "
                f"like B2T64, got {text!r}"
            )
        if len(shape) == len(operation.axes):
            chosen = [{axis: shape[axis] for axis in operation.axes}]
        else:
            chosen = [s for s in defaults if shape.items() <= s.items()]
        if not chosen:
            raise ValueError(f"shapes: no default shape of {operation.name} has {text!r}")
        shapes += [s for s in chosen if s not in shapes]
    return tuple(shapes) if texts else defaults


def show_shape(shape: Shape) -> str:
    return "".join(f"{axis}{size}" for axis, size in shape.items())
