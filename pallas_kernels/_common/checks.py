# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Argument checks whose messages name the argument, what was wanted and what came.

Every public operator calls these before any work, so bad input never reaches a kernel. They know
nothing of any operator.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels._common.precision import state_dtype

FLOAT_DTYPES = ("float32", "bfloat16", "float16", "float64")


def check_rank(name: str, x: jax.Array, axes: str) -> None:
    """Raises ValueError unless `x` has one axis per letter of `axes` (e.g. "B T H K").

    And TypeError if it is no array.
    """
    if not hasattr(x, "shape") or not hasattr(x, "dtype"):
        raise TypeError(f"{name}: wanted an array, got {x!r}"[:200])
    letters = axes.split()
    if len(x.shape) != len(letters):
        raise ValueError(
            f"{name}: wanted {len(letters)} axes [{', '.join(letters)}], got shape {x.shape}"
        )


def check_shape(name: str, x: jax.Array, axes: str, sizes: dict[str, int]) -> None:
    """Raises ValueError unless `x` has the shape that `axes` spells with `sizes`."""
    check_rank(name, x, axes)
    wanted = tuple(sizes[letter] for letter in axes.split())
    if x.shape != wanted:
        raise ValueError(
            f"{name}: wanted shape [{', '.join(axes.split())}] = {wanted}, got {x.shape}"
        )


def check_float_dtype(name: str, x: jax.Array) -> None:
    """Raises TypeError unless `x` is of a floating type the operators take."""
    dtype = jnp.dtype(x.dtype).name
    if dtype not in FLOAT_DTYPES:
        raise TypeError(f"{name}: wanted dtype in {FLOAT_DTYPES}, got {dtype}")
    if dtype == "float64" and not jax.config.jax_enable_x64:  # as NumPy's arrays are
        raise TypeError(f"{name}: wanted fewer bits, or jax_enable_x64, got float64")


def check_same_dtype(name: str, x: jax.Array, other_name: str, other: jax.Array) -> None:
    """Raises TypeError unless `x` has the dtype of `other`."""
    if x.dtype != other.dtype:
        raise TypeError(f"{name}: wanted {other_name}'s dtype {other.dtype}, got {x.dtype}")


def check_dtype(name: str, x: jax.Array, wanted: jax.typing.DTypeLike) -> None:
    """Raises TypeError unless `x` has exactly the dtype `wanted`."""
    if x.dtype != jnp.dtype(wanted):
        raise TypeError(f"{name}: wanted dtype {jnp.dtype(wanted)}, got {x.dtype}")


def check_integer_dtype(name: str, x: jax.Array) -> None:
    """Raises TypeError unless `x` is of an integer type."""
    if not jnp.issubdtype(x.dtype, jnp.integer):
        raise TypeError(f"{name}: wanted an integer dtype, got {x.dtype}")


def check_compiler_shards(name: str, x: jax.Array) -> None:
    """Raises NotImplementedError if `x` is spread over explicit mesh axes: loops do not follow."""
    sharding = jax.typeof(x).sharding
    if any(axes is not None for axes in sharding.spec):
        raise NotImplementedError(
            f"{name}: wanted mesh axes of AxisType.Auto, or a call inside jax.shard_map, got "
            f"{jax.typeof(x)} over {sharding.mesh.axis_types}"
        )


def check_choice(name: str, value: object, choices: Sequence[object]) -> None:
    """Raises ValueError unless `value` is one of `choices`, and of its type or NumPy's integers."""
    plain = value.item() if isinstance(value, np.integer) else value
    if not any(type(plain) is type(choice) and plain == choice for choice in choices):
        raise ValueError(f"{name}: wanted one of {tuple(choices)}, got {value!r}")


def check_number(name: str, value: object) -> float:
    """`value` as a float. Raises TypeError if it is none."""
    try:
        if isinstance(value, str | bytes):
            raise TypeError
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"{name}: wanted a number, got {value!r}"[:200]) from None


def check_positive_integer(name: str, value: object) -> None:
    """Raises ValueError unless `value` is an integer of at least 1."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name}: wanted an integer >= 1, got {value!r}")


def check_inputs(
    axes: str, q: jax.Array, k: jax.Array, v: jax.Array, beta: jax.Array | None = None
) -> dict[str, int]:
    """Checks shapes and dtypes of an operator's inputs; returns the size of every axis by letter.

    `axes` are those before the head's, "B T H" or "B H": q and k have K after them, v has V, beta
    nothing. All share one floating dtype; K is at least 1.
    """
    check_rank("q", q, f"{axes} K")
    check_rank("v", v, f"{axes} V")
    sizes = dict(zip([*axes.split(), "K"], q.shape, strict=True)) | {"V": v.shape[-1]}
    check_float_dtype("q", q)
    if sizes["K"] < 1:
        raise ValueError(f"q: wanted K >= 1, got shape {q.shape}")
    others = [("k", k, f"{axes} K"), ("v", v, f"{axes} V")]
    others += [] if beta is None else [("beta", beta, axes)]
    for name, x, its_axes in others:
        check_shape(name, x, its_axes, sizes)
        check_same_dtype(name, x, "q", q)
    return sizes


def check_state(
    name: str, state: jax.Array, sizes: dict[str, int], input_dtype: jax.typing.DTypeLike
) -> None:
    """Raises unless `state` is [B, H, K, V] in the state dtype of inputs of `input_dtype`."""
    check_shape(name, state, "B H K V", sizes)
    check_dtype(name, state, state_dtype(input_dtype))


def check_segment_ids(segment_ids: jax.Array, sizes: dict[str, int]) -> None:
    """Raises unless `segment_ids` are integers of shape [B, T]."""
    check_shape("segment_ids", segment_ids, "B T", sizes)
    check_integer_dtype("segment_ids", segment_ids)
