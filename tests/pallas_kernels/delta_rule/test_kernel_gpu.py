# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The Hopper kernels on a Hopper GPU: values, gradients, bits. Run with `pytest -m gpu`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.delta_rule import kernel_passes, kernel_vjp
from pallas_kernels.delta_rule.api import delta_rule

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        getattr(jax.devices()[0], "compute_capability", None) != "9.0",
        reason="needs a Hopper GPU",
    ),
]

NAMES = ("output", "final_state", "dq", "dk", "dv", "dbeta", "dinitial_state")
BOUNDS = {"bfloat16": 1e-2, "float16": 1e-3}
MANY = kernel_passes.FEW_HEADS + 1  # heads times batch where tiles are made on the way


def make_inputs(batch, length, heads, key_size, value_size, dtype, *, beta_to=1.0, norm=1.0):
    """(q, k, v, beta, initial_state), (do, dfinal_state)."""
    keys = jax.random.split(jax.random.key(length + value_size), 7)

    def normal(i, *shape, dtype=dtype):
        return jax.random.normal(keys[i], shape, jnp.float32).astype(dtype)

    def unit(i):
        x = normal(i, batch, length, heads, key_size, dtype=jnp.float32)
        return (x / jnp.linalg.norm(x, axis=-1, keepdims=True)).astype(dtype)

    beta = beta_to * jax.random.uniform(keys[2], (batch, length, heads), jnp.float32)
    v = normal(3, batch, length, heads, value_size)
    state_shape = (batch, heads, key_size, value_size)
    args = (unit(0), (norm * unit(1)).astype(dtype), v, beta.astype(dtype))
    cotangents = (
        normal(5, *v.shape),
        normal(6, *state_shape, dtype=jnp.float32),
    )
    return (*args, normal(4, *state_shape, dtype=jnp.float32)), cotangents


@functools.partial(jax.jit, static_argnames="implementation")
def outputs_and_gradients(args, cotangents, implementation):
    def run(q, k, v, beta, initial_state):
        return tuple(
            delta_rule(q, k, v, beta, initial_state=initial_state, implementation=implementation)
        )

    outputs, vjp = jax.vjp(run, *args)
    return *outputs, *vjp(cotangents)


def wanted(args, cotangents):
    """The definition on the same numbers in float64."""
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: np.asarray(x).astype(np.float64), (args, cotangents))
        return [np.asarray(x) for x in outputs_and_gradients(*wide, "reference")]


def assert_close(got, references, bound, names=NAMES):
    for name, x, reference in zip(names, got, references, strict=True):
        x = np.asarray(x).astype(np.float64)
        assert np.isfinite(x).all(), name
        error = np.linalg.norm(x - reference) / np.linalg.norm(reference)
        assert error <= bound, f"{name}: RMS ratio {error:.2e}, bound {bound:.0e}"


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((2, 1000, 3, 128, 128), id="few_heads"),
        pytest.param((MANY, 200, 1, 128, 128), id="many_heads"),
        pytest.param((1, 130, 3, 48, 80), id="padded"),
        pytest.param((MANY, 192, 1, 64, 256), id="wide_values"),
        pytest.param((1, 1, 2, 128, 64), id="one_token"),
    ],
)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_values_and_gradients(shape, dtype):
    args, cotangents = make_inputs(*shape, dtype)
    got = outputs_and_gradients(args, cotangents, "pallas")
    assert_close(got, wanted(args, cotangents), BOUNDS[dtype])


def test_beta_up_to_2():
    args, cotangents = make_inputs(1, 512, 2, 128, 128, jnp.bfloat16, beta_to=2.0)
    got = outputs_and_gradients(args, cotangents, "pallas")
    assert_close(got, wanted(args, cotangents), 1e-2)


def repeated_keys():
    """Four keys in turn: values, and the definition's values, by name."""
    args, cotangents = make_inputs(1, 512, 2, 128, 128, jnp.bfloat16)
    q, k, v, beta, state = args
    args = q, jnp.take(k, jnp.arange(512) % 4, axis=1), v, beta, state
    got = outputs_and_gradients(args, cotangents, "pallas")
    return dict(zip(NAMES, zip(got, wanted(args, cotangents), strict=True), strict=True))


def test_repeated_keys():
    for name, (x, reference) in repeated_keys().items():
        if name not in ("dv", "dbeta"):
            assert_close([x], [reference], 1e-2, names=[name])


@pytest.mark.xfail(
    strict=True,
    reason="dv and dbeta are differences of nearly equal numbers here, of which 16-bit operands "
    "leave too few digits: experiments/LOG.md",
)
def test_repeated_keys_dv_and_dbeta():
    pairs = repeated_keys()
    for name in ("dv", "dbeta"):
        assert_close([pairs[name][0]], [pairs[name][1]], 1e-2, names=[name])


def test_long_rows_in_pieces(monkeypatch):
    monkeypatch.setattr(kernel_vjp, "LONG", 768)
    assert kernel_vjp._pieces(768, 2) == 4
    args, cotangents = make_inputs(2, 768, 2, 128, 64, jnp.bfloat16)
    got = outputs_and_gradients(args, cotangents, "pallas")
    assert_close(got, wanted(args, cotangents), 1e-2)


@pytest.mark.parametrize("batch", [1, MANY])
def test_repeats_bit_for_bit(batch):
    args, cotangents = make_inputs(batch, 300, 1, 128, 128, jnp.bfloat16)
    first = outputs_and_gradients(args, cotangents, "pallas")
    for _ in range(50):
        again = outputs_and_gradients(args, cotangents, "pallas")
        assert all((x == y).all() for x, y in zip(first, again, strict=True))


def test_same_bits_in_any_batch():
    args, cotangents = make_inputs(MANY, 300, 1, 128, 128, jnp.bfloat16)
    whole = outputs_and_gradients(args, cotangents, "pallas")
    one = jax.tree.map(lambda x: x[3:4], (args, cotangents))
    alone = outputs_and_gradients(*one, "pallas")
    assert all((x[3:4] == y).all() for x, y in zip(whole, alone, strict=True))


@pytest.mark.parametrize("batch", [1, MANY])
def test_same_bits_when_cut_between_chunks(batch):
    args, _ = make_inputs(batch, 320, 1, 128, 128, jnp.bfloat16)
    run = functools.partial(delta_rule, implementation="pallas")
    *tokens, state = args
    whole, final_state = run(*tokens, initial_state=state)
    first, middle_state = run(*(x[:, :128] for x in tokens), initial_state=state)
    second, last_state = run(*(x[:, 128:] for x in tokens), initial_state=middle_state)
    assert (whole == jnp.concatenate([first, second], axis=1)).all()
    assert (final_state == last_state).all()


def test_chosen_by_default_and_refusals():
    args, _ = make_inputs(1, 70, 1, 64, 64, jnp.bfloat16)
    q, k, v, beta, _ = args
    chosen = delta_rule(q, k, v, beta).output
    assert (chosen == delta_rule(q, k, v, beta, implementation="pallas").output).all()
    wide = [x.astype(jnp.float32) for x in (q, k, v, beta)]
    with pytest.raises(NotImplementedError, match="bfloat16 and float16"):
        delta_rule(*wide, implementation="pallas")
    segment_ids = jnp.zeros((1, 70), jnp.int32)
    with pytest.raises(NotImplementedError, match="segment_ids"):
        delta_rule(q, k, v, beta, segment_ids=segment_ids, implementation="pallas")
