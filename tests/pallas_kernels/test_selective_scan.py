# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The selective scan: chunks against the recurrence in float64, and wrong recurrences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import selective_scan, selective_scan_step
from tests.helpers.compare import BOUNDS, assert_close, rms_ratio
from tests.helpers.operators import random_segments
from tests.helpers.selective_scan import check_scan, make_args, recur


def chunked(x, dt, a, b, c, state, ids=None):
    return selective_scan(x, dt, a, b, c, initial_state=state, segment_ids=ids, chunk_size=16)


@pytest.mark.parametrize(
    ("dtype", "segments"),
    [("float64", False), ("float32", True), ("bfloat16", True)],
)
@pytest.mark.slow
def test_outputs_and_gradients_agree_with_the_recurrence(x64, dtype, segments):
    """Two blocks of sixteen chunks, the last not full."""
    ids = random_segments(2, 270, 40) if segments else None
    check_scan(chunked, make_args(270, dtype), ids)


def test_steps_equal_the_recurrence(x64):
    *inputs, state = make_args(7, "float64")
    x, dt, a, b, c = inputs
    wanted, wanted_state = recur(*inputs, state)
    step, outputs = jax.jit(selective_scan_step), []
    for t in range(7):
        y, state = step(state, x[:, t], dt[:, t], a, b[:, t], c[:, t])
        outputs.append(y)
    assert_close("y", jnp.stack(outputs, axis=1), wanted, 1e-13)
    assert_close("state", state, wanted_state, 1e-13)


WRONG = {
    "no_decay": {"decay": lambda dt, a: jnp.ones_like(dt * a)},
    "decay_by_euler": {"decay": lambda dt, a: 1 + jnp.maximum(dt * a, -1)},
    "one_decay_for_all_channels": {"decay": lambda dt, a: jnp.exp(dt[..., :1] * a[..., :1])},
    "reads_before_it_writes": {"early": True},
}


def test_wrong_recurrences_are_rejected(x64):
    args = make_args(60, "float64")
    y, _ = jax.jit(chunked)(*args)
    assert_close("y", y, recur(*args)[0], BOUNDS["float64"])
    for name, changes in WRONG.items():
        assert rms_ratio(recur(*args, **changes)[0], y) > max(BOUNDS.values()), name


def test_memory_does_not_hold_a_state_for_every_token():
    args = make_args(2048, "float32", (1, 32, 16))

    def kept(function):
        residuals = jax.eval_shape(lambda *args: jax.vjp(function, *args)[1], *args)
        return sum(np.prod(x.shape) for x in jax.tree.leaves(residuals))

    assert kept(chunked) < 0.1 * kept(recur)


def test_no_tokens():
    *inputs, state = make_args(0, "float32")
    y, final_state = chunked(*inputs, state)
    assert y.shape == (2, 0, 6) and (final_state == state).all()


@pytest.mark.parametrize("sizes", [(0, 4, 6), (2, 4, 0)])
def test_no_rows_and_no_channels(sizes):
    batch, states, width = sizes
    state = jnp.zeros(sizes)
    x, b = jnp.zeros((batch, 3, width)), jnp.zeros((batch, 3, states))
    args = x, x, jnp.zeros((states, width)), b, b, state
    y, final_state = chunked(*args, jnp.zeros((batch, 3), jnp.int32))
    assert y.shape == x.shape and final_state.shape == state.shape


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"x": jnp.zeros((2, 3))}, ValueError, "^x: wanted 3 axes"),
        ({"dt": jnp.zeros((2, 3, 5))}, ValueError, r"^dt: wanted shape \[B, T, D\]"),
        ({"dt": jnp.zeros((2, 3, 6), jnp.bfloat16)}, TypeError, "^dt: wanted dtype float32"),
        ({"a": jnp.zeros((4, 5))}, ValueError, "^a: wanted shape"),
        ({"b": jnp.zeros((2, 3, 5))}, ValueError, "^b: wanted shape"),
        ({"c": jnp.zeros((2, 3, 4), jnp.bfloat16)}, TypeError, "^c: wanted x's dtype"),
        ({"initial_state": jnp.zeros((2, 4, 5))}, ValueError, "^initial_state: wanted shape"),
        ({"segment_ids": jnp.zeros((2, 4), jnp.int32)}, ValueError, "^segment_ids: wanted shape"),
        ({"chunk_size": 20}, ValueError, "^chunk_size: wanted one of"),
    ],
)
def test_bad_arguments_are_named(no_jaxtyping, changes, error, message):
    x, dt, a, b, c, state = make_args(3, "float32")
    args = {"x": x, "dt": dt, "a": a, "b": b, "c": c, "initial_state": state} | changes
    with pytest.raises(error, match=message):
        selective_scan(**args)
