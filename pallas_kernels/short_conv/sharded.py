# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The short convolution over a mesh: rows and channels are independent, tokens are not.

The compiler cannot cut up a kernel, so each device runs it on its rows and channels. Where a
sequence is cut, "xla" is run on the whole, which the compiler can cut up.
"""

import functools
import math
from collections.abc import Sequence

import jax
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from pallas_kernels.short_conv.api import short_conv


def short_conv_sharded(
    x: Float[Array, "B T D"],
    weight: Float[Array, "W D"],
    *,
    mesh: jax.sharding.AbstractMesh | jax.sharding.Mesh,
    rows: Sequence[str] = (),
    sequence: str | None = None,
    heads: Sequence[str] = (),
    segment_ids: Int[Array, "B T"] | None = None,
    norm_size: int | None = None,
    implementation: str | None = None,
    **options,
) -> Float[Array, "B T D"]:
    """`short_conv` with B, T and D (groups of `norm_size` channels) spread over mesh axes.

    Args:
        x, weight, segment_ids: whole arrays (of the mesh), as `short_conv`'s.
        mesh, rows, sequence, heads: as of `delta_rule_sharded`. Where T is spread, or B or the
            groups do not divide by their axes, "xla" runs, on the whole.
        implementation: `short_conv`'s; None is the choice above.
        options: `short_conv`'s activation, norm_eps.
    """
    row_ways, group_ways = (math.prod(mesh.shape[axis] for axis in axes) for axes in (rows, heads))
    pieces = 1 if sequence is None else mesh.shape[sequence]
    groups = x.shape[2] // (norm_size or 1)
    run = functools.partial(short_conv, norm_size=norm_size, **options)
    if pieces > 1 or x.shape[0] % row_ways or groups % group_ways:
        return run(x, weight, segment_ids=segment_ids, implementation=implementation or "xla")

    def local(x, weight, segment_ids):
        return run(x, weight, segment_ids=segment_ids, implementation=implementation)

    batch, channels = tuple(rows) or None, tuple(heads) or None
    tokens = P(batch, None, channels)
    ids = None if segment_ids is None else P(batch)
    on_mesh = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(tokens, P(None, channels), ids),
        out_specs=tokens,
        check_vma=False,
    )
    return on_mesh(x, weight, segment_ids)
