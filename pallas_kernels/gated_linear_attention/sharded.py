# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Linear attention, with decay and without, over a mesh."""

import jax
from jaxtyping import Array, Float, Int

from pallas_kernels._common.sharded import over_rows_and_heads
from pallas_kernels.gated_linear_attention.api import gated_linear_attention
from pallas_kernels.linear_attention import linear_attention


def gated_linear_attention_sharded(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B T H K"],
    v: Float[Array, "B T H V"],
    g: Float[Array, "B T H K"] | Float[Array, "B T H"] | None,
    *,
    initial_state: Float[Array, "B H K V"] | None = None,
    segment_ids: Int[Array, "B T"] | None = None,
    **options,
) -> tuple[jax.Array, jax.Array]:
    """`gated_linear_attention`, or with g None `linear_attention`, over a mesh.

    Args:
        q, k, v, g, initial_state, segment_ids: whole arrays (of the mesh), as there.
        options: mesh, rows, sequence and heads as of `over_rows_and_heads`, and theirs.
    Returns:
        (output [B, T, H, V], final state [B, H, K, V]).
    """
    arguments = {
        "q": (q, "B T H K"),
        "k": (k, "B T H K"),
        "v": (v, "B T H V"),
        "initial_state": (initial_state, "B H K V"),
        "segment_ids": (segment_ids, "B T"),
    }
    if g is not None:
        arguments["g"] = (g, "B T H" if len(getattr(g, "shape", ())) == 3 else "B T H K")
    operator = linear_attention if g is None else gated_linear_attention
    return over_rows_and_heads(operator, arguments, ("B T H V", "B H K V"), **options)
