# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The delta rules over a mesh of eight devices against one device."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType

from pallas_kernels import (
    delta_rule,
    delta_rule_sharded,
    gated_delta_rule,
    gated_delta_rule_sharded,
)
from tests.helpers.compare import assert_close

NAMES = ("output", "final_state", "dq", "dk", "dv", "dbeta", "dinitial_state")
GATED_NAMES = (*NAMES[:5], "dg", *NAMES[5:])


def make_inputs(batch=2, length=64, heads=2, key_size=8, value_size=5):
    keys = jax.random.split(jax.random.key(0), 7)

    def unit(key):
        x = jax.random.normal(key, (batch, length, heads, key_size))
        return x / jnp.linalg.norm(x, axis=-1, keepdims=True)

    values, state = (batch, length, heads, value_size), (batch, heads, key_size, value_size)
    args = (
        unit(keys[0]),
        unit(keys[1]),
        jax.random.normal(keys[2], values),
        2 * jax.random.uniform(keys[3], values[:3]),
        jax.random.normal(keys[4], state),
    )
    return args, (jax.random.normal(keys[5], values), jax.random.normal(keys[6], state))


def segments(length=64, pieces=4):
    """A boundary inside a piece, on an edge between pieces, none; an id that comes back."""
    piece = length // pieces
    ids = jnp.zeros((2, length), jnp.int32)
    ids = ids.at[0, 5:].set(1).at[0, 2 * piece :].set(7).at[0, 3 * piece + 3 :].set(0)
    return ids.at[1, piece + 1 : 2 * piece].set(3)


@jax.jit(static_argnums=0)
def outputs_and_gradients(run, args, cotangents):
    outputs, vjp = jax.vjp(lambda *args: tuple(run(*args)), *args)
    return *outputs, *vjp(cotangents)


@pytest.mark.parametrize(
    ("sizes", "with_segments", "gated"),
    [
        ((1, 4, 2), True, False),
        ((2, 4, 1), False, False),
        ((2, 1, 2), True, False),
        ((1, 4, 2), True, True),
    ],
    ids=["pieces_and_heads", "rows_and_pieces", "rows_and_heads", "gated"],
)
def test_equals_one_device(sizes, with_segments, gated):
    args, cotangents = make_inputs()
    operator, operator_sharded, names = delta_rule, delta_rule_sharded, NAMES
    if gated:
        operator, operator_sharded = gated_delta_rule, gated_delta_rule_sharded
        names = GATED_NAMES
        args = *args[:3], jnp.log(jax.random.uniform(jax.random.key(8), args[3].shape)), *args[3:]
    ids = segments() if with_segments else None
    devices = jax.devices()[: sizes[0] * sizes[1] * sizes[2]]
    mesh = jax.make_mesh(sizes, ("b", "t", "h"), (AxisType.Auto,) * 3, devices=devices)

    def whole(*args):
        *tokens, state = args
        return operator(*tokens, initial_state=state, segment_ids=ids, chunk_size=16)

    def sharded(*args):
        *tokens, state = args
        return operator_sharded(
            *tokens,
            mesh=mesh,
            rows=["b"],
            sequence="t",
            heads=["h"],
            initial_state=state,
            segment_ids=ids,
            chunk_size=16,
        )

    wanted = outputs_and_gradients(whole, args, cotangents)
    got = outputs_and_gradients(sharded, args, cotangents)
    for name, x, reference in zip(names, got, wanted, strict=True):
        assert_close(name, x, reference, 1e-6)


def test_pieces_that_do_not_divide_are_refused():
    args, _ = make_inputs(length=62)
    mesh = jax.make_mesh((4,), ("t",), (AxisType.Auto,), devices=jax.devices()[:4])
    with pytest.raises(ValueError, match="T: wanted a multiple of the mesh's 4 parts, got 62"):
        delta_rule_sharded(*args[:4], mesh=mesh, sequence="t")
