# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Additive linear attention against its quadratic definition in float64."""

import jax
import jax.numpy as jnp
import pytest

from pallas_kernels import linear_attention
from pallas_kernels.delta_rule.workloads import make_inputs
from tests.helpers.compare import BOUNDS, assert_close


def quadratic(q, k, v, state, segment_ids, scale):
    numbers = jnp.cumsum(jnp.diff(segment_ids, axis=1, prepend=segment_ids[:, :1]) != 0, axis=1)
    visible = jnp.tril(numbers[:, :, None] == numbers[:, None, :])
    scores = jnp.where(visible[:, None], jnp.einsum("bihk,bjhk->bhij", q, k), 0)
    first = (numbers == 0)[:, :, None, None]
    read = jnp.where(first, jnp.einsum("bihk,bhkv->bihv", q, state), 0)
    last = numbers == numbers[:, -1:]
    k_last = jnp.where(last[:, :, None, None], k, 0)
    kept = jnp.where((numbers[:, -1] == 0)[:, None, None, None], state, 0)
    output = scale * (jnp.einsum("bhij,bjhv->bihv", scores, v) + read)
    return output, kept + jnp.einsum("bthk,bthv->bhkv", k_last, v)


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("segments", [False, True])
def test_outputs_and_gradients(x64, dtype, segments):
    q, k, v, _ = make_inputs(jax.random.key(0), 2, 150, 2, 16, 24, dtype)
    state = jax.random.normal(jax.random.key(1), (2, 2, 16, 24), jnp.float32)
    state = state.astype(jnp.promote_types(dtype, jnp.float32))
    ids = jnp.zeros((2, 150), jnp.int32)
    if segments:
        ids = jnp.cumsum(ids.at[:, 33].set(1).at[0, 64].set(1).at[1, 100].set(1), axis=1)

    def run(q, k, v, state):
        return linear_attention(q, k, v, initial_state=state, segment_ids=ids if segments else None)

    def define(q, k, v, state):
        return quadratic(q, k, v, state, ids, 16**-0.5)

    def outputs_and_gradients(function, args, cotangents):
        out, vjp = jax.vjp(function, *args)
        return (*out, *vjp(cotangents))

    args = (q, k, v, state)
    cotangents = tuple(
        jax.random.normal(jax.random.key(2), x.shape).astype(x.dtype) for x in (v, state)
    )
    got = jax.jit(outputs_and_gradients, static_argnums=0)(run, args, cotangents)
    args, cotangents = jax.tree.map(lambda x: x.astype(jnp.float64), (args, cotangents))
    wanted = jax.jit(outputs_and_gradients, static_argnums=0)(define, args, cotangents)
    names = ("output", "final_state", "dq", "dk", "dv", "dstate")
    for name, a, b in zip(names, got, wanted, strict=True):
        assert_close(name, a, b, BOUNDS[dtype])


def test_no_tokens():
    q = jnp.zeros((1, 0, 2, 4))
    output, state = linear_attention(q, q, q, segment_ids=jnp.zeros((1, 0), jnp.int32))
    assert output.shape == (1, 0, 2, 4)
    assert (state == 0).all()
