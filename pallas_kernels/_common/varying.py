# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Arguments inside `jax.shard_map`, whose types say over which mesh axes an array differs."""

import jax


def vary_alike[Arrays](arrays: Arrays) -> Arrays:
    """A pytree of arrays, each varying over the mesh axes that any of them varies over.

    A loop's state must enter it with the type it leaves it with, but starts as zeros, which are the
    same on every device. Outside `jax.shard_map`, and with check_vma=False there, nothing varies.
    """
    axes = frozenset().union(*(_axes(x) for x in jax.tree.leaves(arrays)))

    def vary(x):
        missing = tuple(axes - _axes(x))
        return jax.lax.pcast(x, missing, to="varying") if missing else x

    return jax.tree.map(vary, arrays)


def _axes(x: jax.Array) -> frozenset[str]:
    return jax.typeof(x).manual_axis_type.varying
