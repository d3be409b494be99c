# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The only place that calls jax-triton; and batching, which it does not know."""

import functools
import os
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels._common.triton_device import Tile


@functools.cache
def _jax_triton():
    # Importing it empties TRITON_CACHE_DIR, which other users of Triton in the process go by.
    kept = os.environ.get("TRITON_CACHE_DIR")
    import jax_triton

    if kept is None:
        os.environ.pop("TRITON_CACHE_DIR", None)
    else:
        os.environ["TRITON_CACHE_DIR"] = kept
    return jax_triton


def launch(
    kernel: Callable,
    *arguments: jax.Array | int | float,
    out: Sequence[jax.ShapeDtypeStruct | jax.Array],
    grid: tuple[int, ...],
    tile: Tile,
    capability: int,
    **constants,
) -> list[jax.Array]:
    """Calls a `triton.jit` function: `arguments`, then pointers to `out`, then `constants`.

    Python's floats arrive as float32.
    """
    arguments = [np.float32(x) if isinstance(x, float) else x for x in arguments]
    return _jax_triton().triton_call(
        *arguments,
        kernel=kernel,
        out_shape=list(out),
        grid=grid,
        name=kernel.fn.__name__,
        num_warps=tile.warps,
        num_stages=tile.stages,
        compute_capability=capability,
        **constants,
    )


def batched(function: Callable) -> Callable:
    """`function` of arrays [B, ...] and pytrees of them: under `vmap` the mapped axis joins B."""
    mapped = jax.custom_batching.custom_vmap(function)

    @mapped.def_vmap
    def _rule(size, are_mapped, *args):
        def fold(x, is_mapped):
            x = x if is_mapped else jnp.broadcast_to(x, (size, *x.shape))
            return x.reshape(size * x.shape[1], *x.shape[2:])

        results = mapped(*jax.tree.map(fold, args, tuple(are_mapped)))
        results = jax.tree.map(lambda x: x.reshape(size, -1, *x.shape[1:]), results)
        return results, jax.tree.map(lambda x: True, results)

    return mapped
