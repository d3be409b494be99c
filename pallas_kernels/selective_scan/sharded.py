# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The selective scan over a mesh: rows and channels are independent."""

from jaxtyping import Array, Float, Int

from pallas_kernels._common.sharded import over_rows_and_heads
from pallas_kernels.selective_scan.api import selective_scan


def selective_scan_sharded(
    x: Float[Array, "B T D"],
    dt: Float[Array, "B T D"],
    a: Float[Array, "N D"],
    b: Float[Array, "B T N"],
    c: Float[Array, "B T N"],
    *,
    initial_state: Float[Array, "B N D"] | None = None,
    segment_ids: Int[Array, "B T"] | None = None,
    **options,
) -> tuple[Float[Array, "B T D"], Float[Array, "B N D"]]:
    """`selective_scan` over a mesh.

    Args:
        x, dt, a, b, c, initial_state, segment_ids: whole arrays (of the mesh), as there.
        options: mesh, rows, sequence and heads (for channels) as of `over_rows_and_heads`, and
            `selective_scan`'s.
    Returns:
        As `selective_scan`.
    """
    arguments = {
        "x": (x, "B T D"),
        "dt": (dt, "B T D"),
        "a": (a, "N D"),
        "b": (b, "B T N"),
        "c": (c, "B T N"),
        "initial_state": (initial_state, "B N D"),
        "segment_ids": (segment_ids, "B T"),
    }
    outputs = ("B T D", "B N D")
    return over_rows_and_heads(selective_scan, arguments, outputs, spread="D", **options)
