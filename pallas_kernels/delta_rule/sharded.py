# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The delta rules over a mesh: rows and heads side by side, a row's pieces one after another.

Rows and heads are independent. A sequence is not; but what a piece does to the state that enters
it is affine and exact (README.md, "Pieces"): S -> M S + R. Each device finds M and R of its piece,
all devices exchange them (K (K + V) numbers a head, whatever the length), every device knows its
true incoming state and runs its piece from there. For cotangents the same with M^T. So outputs,
states and gradients are those of one device; nothing is truncated. A decay changes M and R only.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from pallas_kernels._common import checks
from pallas_kernels._common.arguments import check_log_decay
from pallas_kernels._common.sharded import place
from pallas_kernels.delta_rule.api import DeltaRuleOutput, delta_rule


def delta_rule_sharded(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B T H K"],
    v: Float[Array, "B T H V"],
    beta: Float[Array, "B T H"],
    *,
    mesh: jax.sharding.AbstractMesh | jax.sharding.Mesh,
    rows: Sequence[str] = (),
    sequence: str | None = None,
    heads: Sequence[str] = (),
    initial_state: Float[Array, "B H K V"] | None = None,
    segment_ids: Int[Array, "B T"] | None = None,
    **options,
) -> DeltaRuleOutput:
    """`delta_rule` with B, T and H spread over mesh axes; differentiable as it is, first order.

    Args:
        q, k, v, beta, initial_state, segment_ids: whole arrays (of the mesh), as `delta_rule`'s.
        mesh: of any axes; those not named below hold copies.
        rows, heads: mesh axes over which B and H are spread; B and H must divide by their sizes.
        sequence: the mesh axis over which T is spread, as equal pieces; None: T stays whole.
        options: `delta_rule`'s scale, chunk_size, implementation.
    Returns:
        As `delta_rule`. With `sequence`, reverse mode only.
    Raises:
        ValueError: B, T or H does not divide by its mesh axes. And what `delta_rule` raises.
    Cost: with `sequence`, one more pass over k, v, beta forward (for M and R) and one more reverse
        pass backward, per device over T / pieces tokens.
    """
    return spread(
        delta_rule,
        (q, k, v, beta),
        mesh=mesh,
        rows=rows,
        sequence=sequence,
        heads=heads,
        initial_state=initial_state,
        segment_ids=segment_ids,
        **options,
    )


def spread(
    operator: Callable[..., DeltaRuleOutput],
    inputs: Sequence[jax.Array],
    *,
    mesh,
    rows=(),
    sequence=None,
    heads=(),
    initial_state=None,
    segment_ids=None,
    **options,
) -> DeltaRuleOutput:
    """`operator`, a delta rule of `inputs` q, k, v and more, as `delta_rule_sharded` says."""
    q, k, v, *controls = inputs
    sizes = checks.check_inputs("B T H", q, k, v, controls[-1])  # beta
    if len(controls) > 1:
        check_log_decay(controls[0], "B T H", sizes, q.dtype)
    if initial_state is not None:
        checks.check_state("initial_state", initial_state, sizes, q.dtype)
    if segment_ids is not None:
        checks.check_segment_ids(segment_ids, sizes)
    ways = {"B": _size(mesh, rows), "T": _size(mesh, [sequence] * bool(sequence))}
    ways["H"] = _size(mesh, heads)
    for axis, size in zip("BTH", q.shape, strict=False):
        if size % ways[axis]:
            raise ValueError(
                f"{axis}: wanted a multiple of the mesh's {ways[axis]} parts, got {size}"
            )
    if q.shape[1] == 0:  # nothing to cut up, and pieces have a last token
        return operator(*inputs, initial_state=initial_state, segment_ids=segment_ids, **options)
    if initial_state is None:
        shape = (q.shape[0], q.shape[2], q.shape[3], v.shape[3])
        initial_state = jnp.zeros(shape, jnp.promote_types(q.dtype, jnp.float32))
    run = functools.partial(_local, functools.partial(operator, **options))
    specs = _Specs(rows, sequence, heads)
    args = (q, k, v, tuple(controls), initial_state, segment_ids)
    args = place(mesh, specs.inputs(segment_ids), args)
    if ways["T"] == 1:
        on_mesh = _shard_map(run, mesh, specs.inputs(segment_ids), specs.outputs())
        return DeltaRuleOutput(*on_mesh(*args))
    return DeltaRuleOutput(*_pieces(run, mesh, specs, *args))


def _size(mesh, axes) -> int:
    size = 1
    for axis in axes:
        size *= mesh.shape[axis]
    return size


def _local(operator, q, k, v, controls, state, segment_ids):
    return tuple(operator(q, k, v, *controls, initial_state=state, segment_ids=segment_ids))


class _Specs:
    """Where every array lives; hashable by identity, so that it may be a static argument."""

    def __init__(self, rows, sequence, heads):
        rows, heads = (tuple(axes) or None for axes in (rows, heads))
        self.sequence = sequence
        self.tokens = P(rows, sequence, heads)
        self.state = P(rows, heads)
        self.piece_state = P(sequence, rows, heads)  # one of every piece, in a leading axis
        self.ids = P(rows, sequence)

    def inputs(self, segment_ids):
        ids = None if segment_ids is None else self.ids
        return (self.tokens,) * 4 + (self.state, ids)

    def outputs(self):
        return self.tokens, self.state


def _shard_map(f, mesh, in_specs, out_specs):
    return jax.shard_map(f, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def _follow_on(segment_ids, axis):
    """[B, 1, 1, 1]: the piece's first token is of the segment of the last token before it."""
    pieces = lax.axis_size(axis)
    before = lax.ppermute(segment_ids[:, -1], axis, [(i, i + 1) for i in range(pieces - 1)])
    follows = (segment_ids[:, 0] == before) | (lax.axis_index(axis) == 0)
    return follows[:, None, None, None]


def _map_of_piece(run, k, v, controls, segment_ids):
    """M [B, H, K, K] and R [B, H, K, V] of this device's piece."""
    batch, _, heads, key_size = k.shape
    value_size = v.shape[-1]
    # The state [0, I], with values that are zero past V, becomes [R, M].
    start = jnp.eye(key_size, value_size + key_size, k=value_size, dtype=jnp.float32)
    start = start.astype(jnp.promote_types(k.dtype, jnp.float32))
    start = jnp.broadcast_to(start, (batch, heads, *start.shape))
    values = jnp.pad(v, ((0, 0), (0, 0), (0, 0), (0, key_size)))
    _, final = run(k, k, values, controls, start, segment_ids)
    return final[..., value_size:], final[..., :value_size]


def _combine(maps, additions, state, axis, *, reverse=False):
    """The state that enters this device's piece, and the one that leaves the last piece.

    state <- M state + R through all pieces in order; in reverse, state <- M^T state + R through
    them from the last to the first (what enters, enters from behind).
    """
    maps, additions = (lax.all_gather(x, axis) for x in (maps, additions))
    pieces = maps.shape[0]
    subscripts = "bhji,bhjv->bhiv" if reverse else "bhij,bhjv->bhiv"
    entering = [state]
    for i in range(pieces):
        n = pieces - 1 - i if reverse else i
        moved = jnp.einsum(subscripts, maps[n], entering[-1], precision="highest")
        entering.append(moved + additions[n])
    leaving = entering.pop()
    if reverse:
        entering.reverse()
    return jnp.stack(entering)[lax.axis_index(axis)], leaving


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _pieces(run, mesh, specs, q, k, v, controls, initial_state, segment_ids):
    return _forward(run, mesh, specs, q, k, v, controls, initial_state, segment_ids)[0]


def _forward(run, mesh, specs, q, k, v, controls, initial_state, segment_ids):
    axis = specs.sequence

    def local(q, k, v, controls, state, ids):
        m, r = _map_of_piece(run, k, v, controls, ids)
        if ids is not None:  # a piece that starts a segment forgets what enters
            m = jnp.where(_follow_on(ids, axis), m, 0)
        entering, final = _combine(m, r, state, axis)
        if ids is not None:
            entering = jnp.where(_follow_on(ids, axis), entering, 0)
        output, _ = run(q, k, v, controls, entering, ids)
        return output, final, m[None], entering[None]

    args = (q, k, v, controls, initial_state, segment_ids)
    out_specs = (*specs.outputs(), specs.piece_state, specs.piece_state)
    on_mesh = _shard_map(local, mesh, specs.inputs(segment_ids), out_specs)
    output, final_state, maps, entering = on_mesh(*args)
    return (output, final_state), ((q, k, v, controls, segment_ids), maps, entering)


def _backward(run, mesh, specs, residuals, cotangents):
    (q, k, v, controls, segment_ids), maps, entering = residuals
    axis = specs.sequence

    def local(q, k, v, controls, ids, m, entering, do, dfinal):
        _, vjp = jax.vjp(lambda *args: run(*args, ids), q, k, v, controls, entering[0])
        additions = vjp((do, jnp.zeros_like(dfinal)))[4]
        if ids is not None:
            additions = jnp.where(_follow_on(ids, axis), additions, 0)
        dleaving, dinitial = _combine(m[0], additions, dfinal, axis, reverse=True)
        *gradients, _ = vjp((do, dleaving))
        return *gradients, dinitial

    tokens = specs.tokens
    ids = None if segment_ids is None else specs.ids
    in_specs = (*(tokens,) * 4, ids, *(specs.piece_state,) * 2, tokens, specs.state)
    on_mesh = _shard_map(local, mesh, in_specs, (*(tokens,) * 4, specs.state))
    gradients = on_mesh(q, k, v, controls, segment_ids, maps, entering, *cotangents)
    return *gradients, None


_pieces.defvjp(_forward, _backward)
