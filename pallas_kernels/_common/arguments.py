# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""What every operator with a matrix memory does with its arguments first: checks and defaults."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from pallas_kernels._common import checks
from pallas_kernels._common.chunking import CHUNK_SIZES
from pallas_kernels._common.precision import state_dtype
from pallas_kernels._common.segments import number_segments


class Arguments(NamedTuple):
    """Checked arguments, defaults filled in.

    Attributes:
        sizes: of every axis, by letter.
        scale: of the read-out.
        initial_state: [B, H, K, V] in the state dtype.
        segments: [B, T], each row's segments numbered from 0; None is one segment a row.
    """

    sizes: dict[str, int]
    scale: float
    initial_state: jax.Array
    segments: jax.Array | None


def check_arguments(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    beta: jax.Array | None = None,
    *,
    scale: float | None,
    initial_state: jax.Array | None,
    segment_ids: jax.Array | None,
    chunk_size: int,
) -> Arguments:
    """Checks what `delta_rule` and its relatives share, by `delta_rule`'s description.

    Raises:
        ValueError, TypeError: a rank, an axis, a dtype or chunk_size is not as described.
        NotImplementedError: arrays are spread over explicit mesh axes.
    """
    sizes = checks.check_inputs("B T H", q, k, v, beta)
    for name, x in (("q", q), ("k", k), ("v", v)):
        checks.check_compiler_shards(name, x)
    if initial_state is None:
        initial_state = jnp.zeros([sizes[axis] for axis in "BHKV"], state_dtype(q.dtype))
    checks.check_state("initial_state", initial_state, sizes, q.dtype)
    segments = None
    if segment_ids is not None:
        checks.check_segment_ids(segment_ids, sizes)
        segments = number_segments(segment_ids)
    checks.check_choice("chunk_size", chunk_size, CHUNK_SIZES)
    scale = sizes["K"] ** -0.5 if scale is None else checks.check_number("scale", scale)
    return Arguments(sizes, scale, initial_state, segments)


def check_log_decay(
    g: jax.Array, axes: str, sizes: dict[str, int], input_dtype: jax.typing.DTypeLike
) -> None:
    """Raises unless `g` has `axes`, with or without K after them, and the state dtype.

    16 bits are too few for a log decay.
    """
    if len(getattr(g, "shape", ())) > len(axes.split()):
        axes = f"{axes} K"
    checks.check_shape("g", g, axes, sizes)
    checks.check_dtype("g", g, state_dtype(input_dtype))
