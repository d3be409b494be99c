# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Operators whose rows and heads are independent, over a mesh: every device runs its own.

The compiler cannot cut up a kernel, and would run it on the whole everywhere.
"""

import math
from collections.abc import Callable, Sequence

import jax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from pallas_kernels._common import checks


def place[Arrays](mesh, specs, arrays: Arrays) -> Arrays:
    """`arrays` as `jax.shard_map` takes them with in_specs `specs`, a prefix of their tree: over
    explicit axes, as `jax.make_mesh` makes them by itself, they must be spread like that before."""
    if AxisType.Explicit not in mesh.axis_types:
        return arrays

    def reshard(spec, below):
        return jax.tree.map(lambda x: jax.reshard(x, NamedSharding(mesh, spec)), below)

    return jax.tree.map(reshard, specs, arrays)


def over_rows_and_heads(
    operator: Callable,
    arguments: dict[str, tuple[jax.Array | None, str]],
    outputs: Sequence[str],
    *,
    mesh: jax.sharding.AbstractMesh | jax.sharding.Mesh,
    rows: Sequence[str] = (),
    sequence: str | None = None,
    heads: Sequence[str] = (),
    spread: str = "H",
    implementation: str | None = None,
    **options,
) -> tuple:
    """`operator` with B and the axis `spread` over mesh axes; differentiable.

    Args:
        operator: called with keyword arguments.
        arguments: a whole array (of the mesh), or None, and its axes by letter, by name.
        outputs: axes of what the operator returns.
        mesh: of any axes; those not named below hold copies.
        rows, heads: mesh axes over which B and `spread` go. Where these do not divide by them, or
            a sequence is cut or has no tokens, "xla" runs on the whole, for the compiler to cut up.
        sequence: the mesh axis over which sequences are spread.
        implementation: the operator's; None is the choice above.
        options: more keyword arguments of the operator.
    Raises:
        ValueError, TypeError: what is no array, or whose axes do not fit the others'; names it.
    """
    sizes: dict[str, int] = {}
    for name, (x, letters) in arguments.items():
        if x is not None:
            checks.check_rank(name, x, letters)
            sizes = dict(zip(letters.split(), x.shape, strict=True)) | sizes
            checks.check_shape(name, x, letters, sizes)
    ways = {"B": tuple(rows), spread: tuple(heads)}
    values = {name: x for name, (x, _) in arguments.items()}
    for x, letters in arguments.values():
        for axis, size in zip(letters.split(), () if x is None else x.shape, strict=False):
            if size % math.prod(mesh.shape[name] for name in ways.get(axis, ())):
                return operator(**values, implementation=implementation or "xla", **options)
    cut = sequence is not None and mesh.shape[sequence] > 1
    if cut or sizes.get("T") == 0:
        return operator(**values, implementation=implementation or "xla", **options)

    def spec(letters):
        return P(*(ways.get(axis) or None for axis in letters.split()))

    def local(values):
        return tuple(operator(**values, implementation=implementation, **options))

    specs = {name: None if x is None else spec(axes) for name, (x, axes) in arguments.items()}
    return jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(specs,),
        out_specs=tuple(spec(letters) for letters in outputs),
        check_vma=False,
    )(place(mesh, specs, values))
