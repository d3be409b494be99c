# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The kernels on a GPU that takes them: values, gradients, bits. Run with `pytest -m gpu`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels._common import triton_device
from pallas_kernels.delta_rule import (
    kernel_prepare,
    kernel_vjp,
)
from pallas_kernels.delta_rule.api import delta_rule
from tests.helpers.compare import BOUNDS, assert_close
from tests.helpers.kernels import MANY, hopper, make_inputs, segments_of

pytestmark = pytest.mark.gpu
triton = pytest.mark.skipif(
    not triton_device.installed() or triton_device.capability() is None,
    reason="needs an NVIDIA GPU and jax-triton",
)


@pytest.fixture(params=[pytest.param("pallas", marks=hopper), pytest.param("triton", marks=triton)])
def implementation(request):
    return request.param


NAMES = ("output", "final_state", "dq", "dk", "dv", "dbeta", "dinitial_state")


@functools.partial(jax.jit, static_argnames=("implementation", "residuals"))
def outputs_and_gradients(args, cotangents, implementation, segments=None, residuals="recompute"):
    def run(q, k, v, beta, initial_state):
        return tuple(
            delta_rule(
                q,
                k,
                v,
                beta,
                initial_state=initial_state,
                segment_ids=segments,
                residuals=residuals,
                implementation=implementation,
            )
        )

    outputs, vjp = jax.vjp(run, *args)
    return *outputs, *vjp(cotangents)


def check(implementation, args, cotangents, segments=None):
    """Compares outputs and gradients with the definition on the same numbers in float64."""
    got = outputs_and_gradients(args, cotangents, implementation, segments)
    bound = BOUNDS[args[0].dtype.name]
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: np.asarray(x).astype(np.float64), (args, cotangents))
        wanted = outputs_and_gradients(*wide, "reference", segments)
        for name, x, reference in zip(NAMES, got, wanted, strict=True):
            assert_close(name, np.asarray(x), np.asarray(reference), bound)


def assert_same(xs, ys):
    for name, x, y in zip(NAMES, xs, ys, strict=False):
        assert (x == y).all(), name


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((2, 1000, 3, 128, 128), id="few_heads"),
        pytest.param((MANY, 200, 1, 128, 128), id="many_heads"),
        pytest.param((MANY, 200, 1, 64, 64), id="small_heads"),
        pytest.param((1, 130, 3, 48, 80), id="padded"),
        pytest.param((MANY, 192, 1, 64, 256), id="wide_values"),
        pytest.param((MANY, 70, 1, 256, 256), id="wide"),
        pytest.param((1, 200, 2, 200, 72), id="wide_padded"),
        pytest.param((1, 1, 2, 128, 64), id="one_token"),
    ],
)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_values_and_gradients(implementation, shape, dtype):
    if (implementation, dtype) == ("pallas", "float32"):
        pytest.skip("the Hopper kernels take 16-bit inputs")
    check(implementation, *make_inputs(*shape, dtype))


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((3, 200, 2, 128, 128), id="few_heads"),
        pytest.param((MANY, 200, 1, 128, 64), id="many_heads"),
        pytest.param((3, 197, 1, 256, 128), id="wide"),
    ],
)
def test_segments(implementation, shape):
    check(implementation, *make_inputs(*shape, "bfloat16"), segments_of(*shape[:2]))


def test_beta_up_to_2(implementation):
    check(implementation, *make_inputs(1, 512, 2, 128, 128, "bfloat16", beta_to=2.0))


@pytest.mark.parametrize("beta_from", [0.0, 1.0])
def test_repeated_keys(implementation, beta_from):
    (q, k, v, beta, state), cotangents = make_inputs(
        1, 2048, 2, 128, 128, "bfloat16", beta_from=beta_from, beta_to=beta_from + 1
    )
    k = jnp.take(k, jnp.arange(2048) % 4, axis=1)
    check(implementation, (q, k, v, beta, state), cotangents)


def test_keys_of_any_norm(implementation):
    (q, k, v, beta, state), cotangents = make_inputs(1, 512, 2, 128, 128, "bfloat16", beta_to=2.0)
    norm = jax.random.uniform(jax.random.key(1), (*beta.shape, 1), jnp.float32, 0.5, 4)
    # The recurrence itself is stable for beta |k|^2 <= 2.
    args = q, (norm * k).astype(k.dtype), v, (beta / norm[..., 0] ** 2).astype(beta.dtype), state
    check(implementation, args, cotangents)


@hopper
def test_correction_where_the_recurrence_grows():
    """Norms up to 4, beta up to 2: N grows by 20 orders of magnitude and keeps its digits."""
    (q, k, _, beta, _), _ = make_inputs(2, 256, 2, 128, 64, "bfloat16", beta_to=2.0)
    norm = jax.random.uniform(jax.random.key(2), (*beta.shape, 1), jnp.float32, 0, 4)
    k = (norm * k).astype(k.dtype)
    rows = jnp.swapaxes(beta.astype(jnp.float32), 1, 2)
    tiles = jax.jit(kernel_prepare.prepare)(q, k, rows)
    got = np.asarray(tiles.correction.astype(jnp.float32), np.float64)
    got = got + np.asarray(tiles.remainder.astype(jnp.float32), np.float64)
    keys = np.asarray(k.astype(jnp.float32), np.float64).transpose(0, 2, 1, 3)
    keys = keys.reshape(*keys.shape[:2], 4, 64, 128)
    lower = np.tril(keys @ np.swapaxes(keys, -1, -2), -1)
    scaled = lower * np.asarray(rows, np.float64).reshape(*lower.shape[:3], 1, 64)
    wanted = -np.swapaxes(np.linalg.solve(np.eye(64) + scaled, lower), -1, -2)
    for n in np.ndindex(lower.shape[:3]):
        assert_close(f"chunk {n}", got[n], wanted[n], 1e-3)


def test_beta_zero(implementation):
    (q, k, v, beta, state), cotangents = make_inputs(1, 200, 2, 128, 128, "bfloat16")
    beta = jnp.where(jnp.arange(200)[None, :, None] % 3 == 0, 0, beta)
    check(implementation, (q, k, v, beta, state), cotangents)


@hopper
def test_long_rows_in_pieces(monkeypatch):
    monkeypatch.setattr(kernel_vjp, "LONG", 768)
    assert kernel_vjp._pieces(768, 2, 128) == 4
    inputs = make_inputs(2, 768, 2, 128, 64, "bfloat16")
    check("pallas", *inputs, segments_of(2, 768))


@pytest.mark.parametrize("batch", [1, MANY])
def test_repeats_bit_for_bit(implementation, batch):
    args, cotangents = make_inputs(batch, 300, 1, 128, 128, "bfloat16")
    first = outputs_and_gradients(args, cotangents, implementation)
    for _ in range(50):
        assert_same(outputs_and_gradients(args, cotangents, implementation), first)


@pytest.mark.parametrize("shape", [(2, 300, 1, 128, 128), (MANY, 300, 1, 128, 128)])
def test_same_bits_with_kept_residuals(implementation, shape):
    args, cotangents = make_inputs(*shape, "bfloat16")
    segments = segments_of(*shape[:2])
    recomputed = outputs_and_gradients(args, cotangents, implementation, segments)
    saved = outputs_and_gradients(args, cotangents, implementation, segments, residuals="save")
    assert_same(saved, recomputed)


def test_same_bits_in_any_batch(implementation):
    args, cotangents = make_inputs(MANY, 300, 1, 128, 128, "bfloat16")
    whole = outputs_and_gradients(args, cotangents, implementation)
    one = jax.tree.map(lambda x: x[3:4], (args, cotangents))
    assert_same([x[3:4] for x in whole], outputs_and_gradients(*one, implementation))


def test_same_bits_under_vmap(implementation):
    args, cotangents = make_inputs(4, 100, 2, 64, 64, "bfloat16")
    whole = outputs_and_gradients(args, cotangents, implementation)
    pairs = jax.tree.map(lambda x: x.reshape(2, 2, *x.shape[1:]), (args, cotangents))
    mapped = jax.vmap(functools.partial(outputs_and_gradients, implementation=implementation))(
        *pairs
    )
    assert_same([x.reshape(4, *x.shape[2:]) for x in mapped], whole)


@pytest.mark.parametrize(
    ("batch", "length", "options"),
    [(1, 320, {}), (MANY, 320, {}), (1, kernel_vjp.LONG, {"sequence_pieces": 1})],
)
def test_same_bits_when_cut_between_chunks(implementation, batch, length, options):
    args, _ = make_inputs(batch, length, 1, 128, 128, "bfloat16")
    run = functools.partial(delta_rule, implementation=implementation, **options)
    *tokens, state = args
    whole, final_state = run(*tokens, initial_state=state)
    first, middle_state = run(*(x[:, :128] for x in tokens), initial_state=state)
    second, last_state = run(*(x[:, 128:] for x in tokens), initial_state=middle_state)
    assert (whole == jnp.concatenate([first, second], axis=1)).all()
    assert (final_state == last_state).all()


def test_offsets_past_2_to_the_31(implementation):
    batch, length, heads, key_size = 130, 1040, 128, 128
    assert batch * length * heads * key_size > 2**31
    one = make_inputs(1, length, heads, key_size, 64, "bfloat16")
    alone = outputs_and_gradients(*one, implementation)
    many = jax.tree.map(lambda x: jnp.broadcast_to(x, (batch, *x.shape[1:])), one)
    whole = outputs_and_gradients(*many, implementation)
    for name, x, y in zip(NAMES, whole, alone, strict=True):
        for row in (0, batch // 2, batch - 1):
            assert (x[row] == y[0]).all(), (name, row)


@hopper
def test_chosen_by_default_and_refusals():
    args, _ = make_inputs(1, 70, 1, 64, 64, "bfloat16")
    q, k, v, beta, _ = args
    chosen = delta_rule(q, k, v, beta).output
    assert (chosen == delta_rule(q, k, v, beta, implementation="pallas").output).all()
    wide = [x.astype(jnp.float32) for x in (q, k, v, beta)]
    with pytest.raises(NotImplementedError, match="bfloat16 and float16"):
        delta_rule(*wide, implementation="pallas")
    with pytest.raises(NotImplementedError, match="2 equal pieces"):
        delta_rule(q, k, v, beta, sequence_pieces=2, implementation="pallas")
    q, k = (jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, 200))) for x in (q, k))
    with pytest.raises(NotImplementedError, match="K <= 256"):
        delta_rule(q, k, v, beta, implementation="pallas")
