# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The only place that calls jax-triton; and batching, which it does not know."""

import functools
import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels._common.triton_device import Tile

FOREIGN_FUNCTION = "triton_kernel_call_ffi"  # jaxlib's


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
    aliases: dict[int, int] | None = None,
    **constants,
) -> list[jax.Array]:
    """Calls a `triton.jit` function: `arguments`, then pointers to `out`, then `constants`.

    Python's floats arrive as float32. `aliases` are arguments that are written over, by position
    among the arrays: array to output. XLA copies those that are needed afterwards.
    """
    out = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in out]
    arrays = {i: x for i, x in enumerate(arguments) if not isinstance(x, int | float)}
    scalars = tuple((i, x) for i, x in enumerate(arguments) if i not in arrays)
    call = _Call(
        kernel,
        tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in arrays.values()),
        scalars,
        tuple(out),
        grid,
        tile,
        capability,
        tuple(sorted(constants.items())),
    )
    run = jax.ffi.ffi_call(FOREIGN_FUNCTION, out, input_output_aliases=aliases)
    return run(*arrays.values(), opaque=_compiled(call))


class _Call(NamedTuple):
    """What a compiled kernel depends on."""

    kernel: Callable
    arrays: tuple[jax.ShapeDtypeStruct, ...]
    scalars: tuple[tuple[int, int | float], ...]  # position, value
    out: tuple[jax.ShapeDtypeStruct, ...]
    grid: tuple[int, ...]
    tile: Tile
    capability: int
    constants: tuple[tuple[str, object], ...]


@functools.cache
def _compiled(call: _Call) -> bytes:
    """The kernel and its launch as jaxlib's foreign function takes them.

    jax-triton 0.3.1 lowers to an older function, which XLA cannot put into CUDA graphs and which
    looks the kernel up by its code at every call. Both take the same bytes.
    """

    def traced(*arrays):
        arguments = list(arrays)
        for position, value in call.scalars:
            value = np.float32(value) if isinstance(value, float) else value
            arguments.insert(position, value)
        return _jax_triton().triton_call(
            *arguments,
            kernel=call.kernel,
            out_shape=list(call.out),
            grid=call.grid,
            name=call.kernel.fn.__name__,
            num_warps=call.tile.warps,
            num_stages=call.tile.stages,
            compute_capability=call.capability,
            **dict(call.constants),
        )

    lowered = jax.jit(traced).trace(*call.arrays).lower(lowering_platforms=("cuda",))
    (found,) = (
        operation.attributes["backend_config"].value_bytes
        for operation in _operations(lowered.compiler_ir().operation)
        if operation.name == "stablehlo.custom_call"
    )
    return found


def _operations(operation):
    """Every operation inside an MLIR operation."""
    for region in operation.regions:
        for block in region.blocks:
            for inner in block.operations:
                yield inner.operation
                yield from _operations(inner.operation)


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
