# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Additive linear attention against its quadratic definition in float64."""

import jax
import jax.numpy as jnp
import pytest

from pallas_kernels import linear_attention
from pallas_kernels.delta_rule.workloads import make_inputs
from tests.helpers.operators import check_operator, random_segments, random_state


def quadratic(q, k, v, state, segment_ids):
    scale = 16**-0.5
    segment_ids = jnp.zeros(q.shape[:2], int) if segment_ids is None else segment_ids
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


def run(q, k, v, state, segment_ids):
    return linear_attention(q, k, v, initial_state=state, segment_ids=segment_ids)


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("segments", [False, True])
def test_outputs_and_gradients(x64, dtype, segments):
    q, k, v, _ = make_inputs(jax.random.key(0), 2, 150, 2, 16, 24, dtype)
    ids = random_segments(2, 150, 40) if segments else None
    args = (q, k, v, random_state(2, 2, 16, 24, dtype))
    check_operator(run, quadratic, ("q", "k", "v", "initial_state"), args, ids)


def test_no_tokens():
    q = jnp.zeros((1, 0, 2, 4))
    output, state = linear_attention(q, q, q, segment_ids=jnp.zeros((1, 0), jnp.int32))
    assert output.shape == (1, 0, 2, 4)
    assert (state == 0).all()
