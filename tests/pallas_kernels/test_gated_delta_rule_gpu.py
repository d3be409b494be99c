# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The gated delta rule's kernels on a Hopper GPU: values, gradients, bits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import delta_rule, gated_delta_rule
from pallas_kernels.delta_rule import kernel_vjp
from tests.helpers.compare import BOUNDS, assert_close, rms_ratio
from tests.helpers.kernels import MANY, hopper, make_inputs, segments_of

pytestmark = [pytest.mark.gpu, hopper]

NAMES = ("output", "final_state", "dq", "dk", "dv", "dg", "dbeta", "dinitial_state")
# Log decays of a token; "all" is from hardly any to a few that erase.
DECAYS = {
    "none": lambda u: 0 * u,
    "weak": lambda u: -0.01 * u,
    "moderate": lambda u: -0.5 * u,
    "near_1": lambda u: -1 - u,
    "strong": lambda u: -20 * u,
    "all": lambda u: jnp.where(u > 0.99, -jnp.inf, -jnp.exp(13 * u - 8)),
}


def make_gated(*shape, dtype="bfloat16", decay="all", **options):
    """(q, k, v, g, beta, initial_state), (do, dfinal_state)."""
    (q, k, v, beta, state), cotangents = make_inputs(*shape, dtype, **options)
    u = jax.random.uniform(jax.random.key(shape[1]), beta.shape, jnp.float32)
    return (q, k, v, DECAYS[decay](u), beta, state), cotangents


@functools.partial(jax.jit, static_argnames=("implementation", "residuals"))
def outputs_and_gradients(
    args, cotangents, segments=None, implementation="pallas", residuals="recompute"
):
    def run(*args):
        *inputs, state = args
        return tuple(
            gated_delta_rule(
                *inputs,
                initial_state=state,
                segment_ids=segments,
                residuals=residuals,
                implementation=implementation,
            )
        )

    outputs, vjp = jax.vjp(run, *args)
    return *outputs, *vjp(cotangents)


def wanted(args, cotangents, segments=None):
    """By the definition, on the same numbers in float64."""
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: np.asarray(x).astype(np.float64), (args, cotangents))
        results = outputs_and_gradients(*wide, segments, "reference")
        return [np.asarray(x) for x in results]


def check(args, cotangents, segments=None, *, but=()):
    """Compares everything `but` what is named with the definition."""
    got = outputs_and_gradients(args, cotangents, segments)
    bound = BOUNDS[args[0].dtype.name]
    for name, x, y in zip(NAMES, got, wanted(args, cotangents, segments), strict=True):
        if name not in but:
            assert_close(name, np.asarray(x), y, bound)


def assert_same(xs, ys):
    for name, x, y in zip(NAMES, xs, ys, strict=True):
        assert (x == y).all(), name


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((2, 1000, 3, 128, 128), id="few_heads"),
        pytest.param((MANY, 130, 1, 128, 128), id="many_heads"),
        pytest.param((MANY, 130, 1, 64, 64), id="small_heads"),
        pytest.param((1, 130, 3, 48, 80), id="padded"),
        pytest.param((MANY, 128, 1, 64, 256), id="wide_values"),
        pytest.param((1, 1, 2, 128, 64), id="one_token"),
    ],
)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_values_and_gradients(shape, dtype):
    check(*make_gated(*shape, dtype=dtype))


@pytest.mark.parametrize("decay", ["none", "weak", "moderate", "near_1", "strong"])
def test_decays_of_one_strength(decay):
    check(*make_gated(2, 300, 2, 128, 128, decay=decay))


@pytest.mark.parametrize("batch", [3, MANY])
def test_segments(batch):
    check(*make_gated(batch, 130, 1, 128, 128), segments_of(batch, 130))


# With hardly any decay the terms of dg cancel to a few percent of themselves (README.md, Numerics).
@pytest.mark.parametrize(("decay", "but"), [("moderate", ()), ("weak", ("dg",))])
def test_repeated_keys_and_beta_up_to_2(decay, but):
    (q, k, *rest), cotangents = make_gated(1, 2048, 2, 128, 128, decay=decay, beta_to=2.0)
    check((q, jnp.take(k, jnp.arange(2048) % 4, axis=1), *rest), cotangents, but=but)


def test_long_rows_in_pieces(monkeypatch):
    monkeypatch.setattr(kernel_vjp, "LONG", 768)
    assert kernel_vjp._pieces(768, 2, 128) == 4
    check(*make_gated(2, 768, 2, 128, 64), segments_of(2, 768))


def test_no_decay_is_the_plain_rule():
    (q, k, v, g, beta, state), _ = make_gated(2, 300, 2, 128, 128, decay="none")
    options = {"initial_state": state, "implementation": "pallas"}
    gated = gated_delta_rule(q, k, v, g, beta, **options)
    plain = delta_rule(q, k, v, beta, **options)
    for x, y in zip(gated, plain, strict=True):
        assert (x == y).all()


def test_an_erased_token_forgets_what_was_before():
    """g = -inf: the rest of the row is as if it began there, and has no gradient to what was."""
    args, cotangents = make_gated(2, 300, 1, 64, 64, decay="weak")
    q, k, v, g, beta, state = args
    at = 100
    args = q, k, v, g.at[:, at].set(-jnp.inf), beta, state
    cotangents = cotangents[0].at[:, :at].set(0), cotangents[1]
    _, _, dq, dk, dv, dg, dbeta, dstate = outputs_and_gradients(args, cotangents)
    for x in (dq, dk, dv, dbeta):
        assert not x[:, :at].any() and x[:, at + 1 :].any()
    assert not dstate.any() and not dg[:, at].any()
    # A sum over the chunk, in float32, whose terms cancel.
    assert jnp.abs(dg[:, :at]).max() < 1e-5 * jnp.abs(dg).max()


WRONG = {
    "no_decay": lambda g: 0 * g,
    "decay_squared": lambda g: 2 * g,
    "a_token_late": lambda g: jnp.pad(g[:, :-1], ((0, 0), (1, 0), (0, 0))),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_decays_are_rejected(wrong):
    args, cotangents = make_gated(2, 300, 2, 128, 128, decay="near_1")
    (q, k, v, g, beta, state) = args
    got = outputs_and_gradients((q, k, v, WRONG[wrong](g), beta, state), cotangents)
    for name, x, y in zip(NAMES, got, wanted(args, cotangents), strict=True):
        assert rms_ratio(np.asarray(x), y) > 3 * BOUNDS["bfloat16"], name


@pytest.mark.parametrize("batch", [1, MANY])
def test_repeats_bit_for_bit_and_with_kept_residuals(batch):
    args, cotangents = make_gated(batch, 300, 1, 128, 128)
    segments = segments_of(batch, 300)
    first = outputs_and_gradients(args, cotangents, segments)
    for _ in range(20):
        assert_same(outputs_and_gradients(args, cotangents, segments), first)
    assert_same(outputs_and_gradients(args, cotangents, segments, residuals="save"), first)


def test_same_bits_in_any_batch():
    args, cotangents = make_gated(MANY, 300, 1, 128, 128)
    whole = outputs_and_gradients(args, cotangents)
    one = jax.tree.map(lambda x: x[3:4], (args, cotangents))
    assert_same([x[3:4] for x in whole], outputs_and_gradients(*one))


def test_chosen_by_default_and_refusals():
    (q, k, v, g, beta, _), _ = make_gated(1, 70, 1, 64, 64)
    chosen = gated_delta_rule(q, k, v, g, beta).output
    assert (chosen == gated_delta_rule(q, k, v, g, beta, implementation="pallas").output).all()
    with pytest.raises(NotImplementedError, match="bfloat16 and float16"):
        wide = [x.astype(jnp.float32) for x in (q, k, v, g, beta)]
        gated_delta_rule(*wide, implementation="pallas")
    with pytest.raises(NotImplementedError, match="one decay a head"):
        channels = jnp.broadcast_to(g[..., None], k.shape)
        gated_delta_rule(q, k, v, channels, beta, implementation="pallas")
    with pytest.raises(NotImplementedError, match="K <= 128 with a decay"):
        q, k = (jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, 100))) for x in (q, k))
        gated_delta_rule(q, k, v, g, beta, implementation="pallas")
