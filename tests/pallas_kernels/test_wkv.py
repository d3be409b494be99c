# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""RWKV-4's weighted average: blocks against the recurrence in float64, and wrong recurrences."""

import jax
import jax.numpy as jnp
import pytest

from pallas_kernels import WKVState, wkv, wkv_empty_state, wkv_step
from tests.helpers.compare import BOUNDS, assert_close, rms_ratio
from tests.helpers.operators import (
    outputs_and_gradients,
    outputs_and_gradients_of_recurrence,
    random_segments,
)


def make_args(length, dtype, spread=1.0):
    keys = jax.random.split(jax.random.key(3), 4)
    k, v = (jax.random.normal(key, (2, length, 6), dtype) for key in keys[:2])
    wide = jnp.promote_types(dtype, jnp.float32)
    w = jnp.exp(jax.random.uniform(keys[2], (6,), wide, -5.0, 3.0))
    return k * spread, v, w, jax.random.normal(keys[3], (6,), wide)


def recur(k, v, w, u, ids=None, *, late=False, bonus=True):
    """The sums as they are, from nothing, token by token; so |k| must be small."""
    ids = jnp.zeros(k.shape[:2], jnp.int32) if ids is None else ids
    starts = jnp.diff(ids, axis=1, prepend=ids[:, :1]) != 0
    u = u if bonus else 0 * u

    def token(sums, inputs):
        k, v, starts = inputs
        a, b = (jnp.where(starts[:, None], 0, x) for x in sums)
        new = tuple(jnp.exp(-w)[None] * x for x in (a, b))
        a, b = new if late else (a, b)
        own = jnp.exp(u[None] + k)
        y = (a + own * v) / (b + own)
        return (new[0] + jnp.exp(k) * v, new[1] + jnp.exp(k)), y

    inputs = tuple(jnp.moveaxis(x, 1, 0) for x in (k, v, starts))
    sums, y = jax.lax.scan(token, (jnp.zeros(k[:, 0].shape, k.dtype),) * 2, inputs)
    return jnp.moveaxis(y, 0, 1), sums


def in_blocks(k, v, w, u, ids=None):
    y, state = wkv(k, v, w, u, segment_ids=ids, chunk_size=16)
    scale = jnp.exp(state.maximum)
    return y, (scale * state.numerator, scale * state.denominator)


@pytest.mark.parametrize(
    ("dtype", "segments"),
    [
        pytest.param("float64", False, marks=pytest.mark.slow),
        ("float32", True),
        pytest.param("bfloat16", True, marks=pytest.mark.slow),
    ],
)
def test_outputs_and_gradients_agree_with_the_recurrence(x64, dtype, segments):
    args = make_args(70, dtype)
    ids = random_segments(2, 70, 20) if segments else None
    sums = (jnp.tile(jnp.cos(args[2])[None], (2, 1)),) * 2
    cotangents = (jnp.cos(args[0]), sums)
    got = outputs_and_gradients(in_blocks, args, cotangents, ids)
    args, cotangents = jax.tree.map(lambda x: x.astype(jnp.float64), (args, cotangents))
    wanted = outputs_and_gradients_of_recurrence(recur, args, cotangents, ids)
    labels = ("y", "numerator", "denominator", "dk", "dv", "dw", "du")
    got, wanted = jax.tree.leaves(got), jax.tree.leaves(wanted)
    for label, x, y in zip(labels, got, wanted, strict=True):
        assert_close(label, x, y, BOUNDS[dtype])
    assert got[0].dtype == jnp.dtype(dtype)


def test_large_exponents_neither_overflow_nor_vanish():
    """With k of +-500 a token's weight is all or nothing; float32 holds e^88."""
    k, v, w, u = make_args(40, "float32", spread=500.0)
    y, _ = in_blocks(k, v, w, u)
    assert jnp.isfinite(y).all()
    shifted, _ = in_blocks(k + 1000.0, v, w, u)
    assert_close("shifted", shifted, y, 1e-3)  # the exponents themselves have 7 digits


def test_a_decay_of_everything_leaves_the_token_before():
    """As exp(rate) of a learned rate may be infinite."""
    k, v, _, u = make_args(20, "float32")
    w = jnp.array([jnp.inf, 1e30, 3e38, 1e29, 50.0, 0.0])
    ids = jnp.repeat(jnp.array([[0, 1, 0]]), jnp.array([3, 1, 16]), axis=1).repeat(2, axis=0)
    y, _ = in_blocks(k, v, w, u, ids)
    assert_close("y", y, recur(k, v, w, u, ids)[0], BOUNDS["float32"])
    gradients = jax.grad(lambda *args: jnp.sum(in_blocks(*args, ids)[0]), (0, 1, 2, 3))(k, v, w, u)
    assert all(jnp.isfinite(x).all() for x in gradients)


def test_steps_and_pieces_equal_the_recurrence(x64):
    k, v, w, u = make_args(12, "float64")
    wanted, _ = recur(k, v, w, u)
    y, state = wkv(k[:, :5], v[:, :5], w, u)
    outputs, step = [y], jax.jit(wkv_step)
    for t in range(5, 12):
        y, state = step(state, k[:, t], v[:, t], w, u)
        outputs.append(y[:, None])
    assert_close("y", jnp.concatenate(outputs, axis=1), wanted, 1e-13)


def test_wrong_recurrences_are_rejected(x64):
    args = make_args(60, "float64")
    y, _ = in_blocks(*args)
    assert_close("y", y, recur(*args)[0], BOUNDS["float64"])
    for wrong in ({"late": True}, {"bonus": False}):
        assert rms_ratio(recur(*args, **wrong)[0], y) > max(BOUNDS.values()), wrong


def test_no_tokens():
    k, v, w, u = make_args(0, "float32")
    y, state = wkv(k, v, w, u)
    assert y.shape == (2, 0, 6) and (state.denominator == 0).all()


@pytest.mark.parametrize("shape", [(0, 3, 6), (2, 3, 0)])
def test_no_rows_and_no_channels(shape):
    k, channel = jnp.zeros(shape), jnp.zeros(shape[2:])
    y, state = wkv(k, k, channel, channel)
    assert y.shape == shape and state.denominator.shape == (shape[0], shape[2])


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"k": jnp.zeros((2, 6))}, ValueError, "^k: wanted 3 axes"),
        ({"v": jnp.zeros((2, 3, 5))}, ValueError, r"^v: wanted shape \[B, T, D\]"),
        ({"v": jnp.zeros((2, 3, 6), jnp.bfloat16)}, TypeError, "^v: wanted k's dtype"),
        ({"w": jnp.zeros(5)}, ValueError, "^w: wanted shape"),
        ({"u": jnp.zeros(6, jnp.bfloat16)}, TypeError, "^u: wanted dtype float32"),
        (
            {"initial_state": WKVState(*wkv_empty_state(2, 5, jnp.float32))},
            ValueError,
            "^initial_state.maximum: wanted shape",
        ),
        ({"segment_ids": jnp.zeros((2, 4), jnp.int32)}, ValueError, "^segment_ids: wanted shape"),
        ({"chunk_size": 20}, ValueError, "^chunk_size: wanted one of"),
    ],
)
def test_bad_arguments_are_named(no_jaxtyping, changes, error, message):
    args = dict(zip("kvwu", make_args(3, "float32"), strict=True)) | changes
    with pytest.raises(error, match=message):
        wkv(**args)
