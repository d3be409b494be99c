# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The short convolution over a mesh: rows and channels are independent, tokens almost are.

The compiler cannot cut up a kernel, so each device runs it on its rows, channels and tokens. Where
a sequence is cut, a piece's first W - 1 outputs are made again, from the tokens before as well.
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from pallas_kernels._common import checks
from pallas_kernels._common.sharded import place
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
        mesh, rows, sequence, heads: as of `delta_rule_sharded`. Where B, the groups or T do not
            divide by their axes, or a piece is shorter than W, "xla" runs, on the whole.
        implementation: `short_conv`'s; None is the choice above.
        options: `short_conv`'s activation, norm_eps.
    Raises: as `short_conv`.
    """
    checks.check_rank("x", x, "B T D")
    checks.check_rank("weight", weight, "W D")
    row_ways, group_ways = (math.prod(mesh.shape[axis] for axis in axes) for axes in (rows, heads))
    pieces = 1 if sequence is None else mesh.shape[sequence]
    groups = x.shape[2] // (norm_size or 1)
    run = functools.partial(short_conv, norm_size=norm_size, **options)
    past = weight.shape[0] - 1
    divides = not (x.shape[0] % row_ways or groups % group_ways or x.shape[1] % pieces)
    if not divides or x.shape[1] // pieces <= past:
        return run(x, weight, segment_ids=segment_ids, implementation=implementation or "xla")

    def local(x, weight, segment_ids):
        y = run(x, weight, segment_ids=segment_ids, implementation=implementation)
        if pieces == 1 or past == 0:
            return y

        def with_tail_before(x):
            """The last tokens of the piece before and the first of this one; zeros before all."""
            forward = [(i, i + 1) for i in range(pieces - 1)]
            tail = lax.ppermute(x[:, -past:], sequence, forward)
            return jnp.concatenate([tail, x[:, :past]], axis=1)

        ids = None if segment_ids is None else with_tail_before(segment_ids)
        first = run(with_tail_before(x), weight, segment_ids=ids, implementation="xla")[:, past:]
        return lax.dynamic_update_slice(y, first, (0, 0, 0))

    batch, channels = tuple(rows) or None, tuple(heads) or None
    tokens = P(batch, sequence, channels)
    ids = None if segment_ids is None else P(batch, sequence)
    specs = (tokens, P(None, channels), ids)
    on_mesh = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=tokens, check_vma=False)
    return on_mesh(*place(mesh, specs, (x, weight, segment_ids)))
