# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Arguments that no operator should take: refused by a message, or worked on as documented."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from hypothesis import strategies as st

from experiments.faults.fuzz import JSON, try_cases
from experiments.faults.outcome import Outcome, parts
from pallas_kernels import (
    delta_rule,
    gated_delta_rule,
    gated_linear_attention,
    linear_attention,
    selective_scan,
    short_conv,
    wkv,
)

BATCH, LENGTH, HEADS, KEYS, VALUES = 2, 17, 2, 4, 6
HEADED = {
    "q": (BATCH, LENGTH, HEADS, KEYS),
    "k": (BATCH, LENGTH, HEADS, KEYS),
    "v": (BATCH, LENGTH, HEADS, VALUES),
    "g": (BATCH, LENGTH, HEADS),
    "beta": (BATCH, LENGTH, HEADS),
    "initial_state": (BATCH, HEADS, KEYS, VALUES),
}
CHANNELS = {
    "x": (BATCH, LENGTH, VALUES),
    "dt": (BATCH, LENGTH, VALUES),
    "a": (KEYS, VALUES),
    "b": (BATCH, LENGTH, KEYS),
    "c": (BATCH, LENGTH, KEYS),
}
AVERAGED = {"k": CHANNELS["x"], "v": CHANNELS["x"], "w": (VALUES,), "u": (VALUES,)}
# Each operator with the shapes of what it takes, by position, and its other options.
OPERATORS: dict[Callable, tuple[dict[str, tuple[int, ...]], tuple[str, ...]]] = {
    delta_rule: (
        {n: HEADED[n] for n in ("q", "k", "v", "beta")},
        ("initial_state", "scale", "implementation", "residuals", "sequence_pieces"),
    ),
    gated_delta_rule: (
        {n: HEADED[n] for n in ("q", "k", "v", "g", "beta")},
        ("initial_state", "scale", "implementation"),
    ),
    gated_linear_attention: (
        {n: HEADED[n] for n in ("q", "k", "v", "g")},
        ("initial_state", "scale", "implementation"),
    ),
    linear_attention: ({n: HEADED[n] for n in ("q", "k", "v")}, ("initial_state", "scale")),
    selective_scan: (CHANNELS, ("initial_state",)),
    wkv: (AVERAGED, ("initial_state",)),
    short_conv: (
        {"x": CHANNELS["x"], "weight": (4, VALUES)},
        ("activation", "norm_size", "norm_eps", "implementation"),
    ),
}
DTYPES = ("float32", "bfloat16", "float16", "int32", "bool", "complex64", "uint8", "float8_e4m3fn")
NO_ARRAY = st.one_of(JSON, st.binary(max_size=3), st.sampled_from((64, 64.0, "xla", "cuda")))


@st.composite
def _near(draw: st.DrawFn, shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
    """An array of another rank, size or dtype."""
    sizes, dtype, at = list(shape), "float32", draw(st.integers(0, len(shape) - 1))
    match draw(st.sampled_from(("drop", "insert", "size", "dtype"))):
        case "drop":
            del sizes[at]
        case "insert":
            sizes.insert(at, draw(st.integers(0, 2)))
        case "size":
            sizes[at] = draw(st.integers(0, sizes[at] + 3))
        case "dtype":
            dtype = draw(st.sampled_from(DTYPES))
    return jax.ShapeDtypeStruct(tuple(sizes), dtype)


@st.composite
def _calls(draw: st.DrawFn, operator: Callable) -> dict[str, object]:
    """Good arguments of an operator, but for one to three of them or of its options."""
    shapes, options = OPERATORS[operator]
    args: dict[str, object] = {
        name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()
    }
    others = {"segment_ids": (BATCH, LENGTH), "initial_state": HEADED["initial_state"]}
    names = [*shapes, *options, "segment_ids", *(["chunk_size"] * (operator != short_conv))]
    for name in draw(st.lists(st.sampled_from(names), min_size=1, max_size=3)):
        shape = shapes.get(name) or others.get(name)
        args[name] = draw(NO_ARRAY if shape is None else _near(shape) | NO_ARRAY)
    return args


def _trace(operator: Callable, args: dict[str, object]) -> None:
    """Calls the operator, without computing anything."""
    arrays = {k: v for k, v in args.items() if isinstance(v, jax.ShapeDtypeStruct)}
    rest = {k: v for k, v in args.items() if k not in arrays}
    jax.eval_shape(lambda arrays: operator(**arrays, **rest), arrays)


def hostile_arguments(seed: int, count: int) -> Outcome:
    """`count` calls, of every operator as many."""
    outcome = Outcome("arguments of another shape, dtype or kind")
    taken = 0
    for operator, part in zip(OPERATORS, parts(count, len(OPERATORS)), strict=False):

        def call(args: dict[str, object], operator=operator) -> None:
            nonlocal taken
            _trace(operator, args)
            taken += 1

        try_cases(outcome, operator.__name__, _calls(operator), part, seed, call)
    outcome.figures["taken_as_good_arguments"] = float(taken)
    return outcome
