# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Argument checks whose messages name the argument, what was wanted and what came.

Every public operator calls these before any work, so bad input never reaches a kernel. They know
nothing of any operator.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

FLOAT_DTYPES = ("float32", "bfloat16", "float16", "float64")


def check_rank(name: str, x: jax.Array, axes: str) -> None:
    """Raises ValueError unless `x` has one axis per letter of `axes` (e.g. "B T H K")."""
    letters = axes.split()
    if x.ndim != len(letters):
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
    if jnp.dtype(x.dtype).name not in FLOAT_DTYPES:
        raise TypeError(f"{name}: wanted dtype in {FLOAT_DTYPES}, got {jnp.dtype(x.dtype).name}")


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


def check_choice(name: str, value: object, choices: Sequence[object]) -> None:
    """Raises ValueError unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name}: wanted one of {tuple(choices)}, got {value!r}")
