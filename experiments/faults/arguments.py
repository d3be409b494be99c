# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Arguments that no operator should take: refused by a message, or worked on as documented."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from experiments.faults.outcome import Outcome
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
REFUSALS = (ValueError, TypeError)

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
VALUES_OF_OPTIONS = (
    -1,
    0,
    3,
    64,
    64.0,
    2**70,
    1.5,
    float("nan"),
    True,
    "",
    "xla",
    "cuda",
    [],
    {},
    b"x",
)


def _mutate(shape: tuple[int, ...], rng: np.random.Generator) -> object:
    """An array's shape or dtype changed, or something that is no array."""
    sizes, dtype = list(shape), "float32"
    at = int(rng.integers(len(sizes)))
    match int(rng.integers(7)):
        case 0:
            del sizes[at]
        case 1:
            sizes.insert(at, int(rng.integers(3)))
        case 2:
            sizes[at] += int(rng.integers(1, 4))
        case 3:
            sizes[at] = int(rng.integers(2))
        case 4 | 5:
            dtype = DTYPES[int(rng.integers(len(DTYPES)))]
        case 6:
            return VALUES_OF_OPTIONS[int(rng.integers(len(VALUES_OF_OPTIONS)))]
    return jax.ShapeDtypeStruct(tuple(sizes), dtype)


def _call(operator: Callable, args: dict[str, object]) -> None:
    """Traces the operator, without computing anything."""
    arrays = {k: v for k, v in args.items() if isinstance(v, jax.ShapeDtypeStruct)}
    rest = {k: v for k, v in args.items() if k not in arrays}
    jax.eval_shape(lambda arrays: operator(**arrays, **rest), arrays)


def hostile_arguments(rng: np.random.Generator, count: int) -> Outcome:
    """Every operator in turn, one to three arguments or options changed."""
    outcome = Outcome("arguments of another shape, dtype or kind")
    taken = 0
    for number in range(count):
        operator, (shapes, options) = list(OPERATORS.items())[number % len(OPERATORS)]
        args: dict[str, object] = {
            name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()
        }
        for _ in range(int(rng.integers(1, 4))):
            names = [*shapes, *options, "segment_ids", *(["chunk_size"] * (operator != short_conv))]
            name = names[int(rng.integers(len(names)))]
            shape = shapes.get(name) or {
                "segment_ids": (BATCH, LENGTH),
                "initial_state": HEADED["initial_state"],
            }.get(name)
            if shape is None or rng.integers(4) == 0:
                args[name] = VALUES_OF_OPTIONS[int(rng.integers(len(VALUES_OF_OPTIONS)))]
            else:
                args[name] = _mutate(shape, rng)
        outcome.caused += 1
        try:
            _call(operator, args)
            taken += 1
        except REFUSALS as error:
            if not str(error).strip():
                outcome.add_problem(f"{operator.__name__}: an error without a message: {args}")
        except Exception as error:
            what = f"{operator.__name__}: {type(error).__name__}: {error}"[:200]
            outcome.add_problem(f"{what}: {args}"[:500])
    outcome.figures = {"taken_as_good_arguments": float(taken)}
    return outcome
