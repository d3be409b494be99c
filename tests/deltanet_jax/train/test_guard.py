# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The guard against an independent rule in float64: what is skipped, counted, and never wrongly."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deltanet_jax.train.guard import HISTORY, WINDOW, init_guard, judge


@functools.cache
def _scan(sigmas, most):
    def step(guard, loss):
        accept, guard = judge(
            guard, loss, jnp.float32(1), spike_sigmas=sigmas, max_skipped_steps=most
        )
        return guard, (accept, guard.in_row)

    return jax.jit(lambda losses: jax.lax.scan(step, init_guard(), losses))


def accepted(losses, sigmas=0.0, most=10):
    guard, (accept, in_row) = _scan(sigmas, most)(jnp.asarray(losses, jnp.float32))
    return np.asarray(accept), np.asarray(in_row), guard


def by_definition(losses, sigmas):
    """Explicit weights of all accepted losses so far, in float64."""
    usual, out = np.empty(0), []
    for loss in losses:
        limit = np.inf
        if len(usual) >= HISTORY:
            shares = 1 / np.minimum(np.arange(1, len(usual) + 1), WINDOW)
            weights = shares * np.append(np.cumprod((1 - shares)[:0:-1])[::-1], 1)
            mean = weights @ usual
            limit = mean + sigmas * np.sqrt(weights @ (usual - mean) ** 2)
        out.append(bool(np.isfinite(loss) and loss <= limit))
        usual = np.append(usual, loss) if out[-1] else usual
    return np.asarray(out)


def clean(steps):
    """Losses as they fall in training, with noise."""
    noise = np.random.default_rng(0).normal(size=steps)
    return 2 + 4 * np.exp(-np.arange(steps) / 300) + 0.1 * noise


def test_a_leap_is_skipped_and_nothing_else_in_two_thousand_steps():
    losses = clean(2000)
    losses[[100, 700, 701, 1500]] *= 100
    got, _, guard = accepted(losses, sigmas=6.0)
    assert set(np.flatnonzero(~got)) == {100, 700, 701, 1500}
    assert (int(guard.skipped), int(guard.accepted)) == (4, 1996)


def test_the_rule_is_the_one_written_out():
    """At 2 deviations many steps are skipped: the same ones as by explicit weights."""
    losses = np.random.default_rng(1).normal(2.0, 0.1, size=400)
    got, _, _ = accepted(losses, sigmas=2.0)
    wanted = by_definition(losses.astype(np.float32).astype(np.float64), 2.0)
    assert 3 <= (~wanted).sum() <= 40
    np.testing.assert_array_equal(got, wanted)


def test_leaps_are_let_through_without_history_and_without_the_option():
    losses = clean(200)
    losses[[HISTORY - 1, 150]] *= 100
    assert set(np.flatnonzero(~accepted(losses, sigmas=6.0)[0])) <= {150}
    assert accepted(losses)[0].all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_skipped_counted_and_forgotten(bad):
    losses = clean(400)
    losses[[0, 5, 6]] = bad
    got, in_row, guard = accepted(losses)
    assert set(np.flatnonzero(~got)) == {0, 5, 6}
    assert in_row[:8].tolist() == [1, 0, 0, 0, 0, 1, 2, 0]
    assert np.isfinite(guard.loss_mean) and np.isfinite(guard.loss_variance)


def test_a_gradient_that_is_not_finite_is_skipped():
    accept, _ = judge(
        init_guard(), jnp.float32(1), jnp.float32(np.inf), spike_sigmas=0.0, max_skipped_steps=2
    )
    assert not accept


def test_nothing_is_accepted_after_too_many_in_a_row():
    losses = clean(9)
    losses[2:5] = np.nan
    assert accepted(losses, most=3)[0].tolist() == [True] * 2 + [False] * 7
    assert accepted(losses, most=4)[0].tolist() == [True] * 2 + [False] * 3 + [True] * 4


def test_a_float64_models_guard_keeps_its_dtypes(x64):
    """Else the second step would be another program, and no checkpoint could be restored."""
    guard, loss = init_guard(), jnp.ones((), jnp.float64)
    _, after = judge(guard, loss, loss, spike_sigmas=3.0, max_skipped_steps=2)
    assert [x.dtype for x in after] == [x.dtype for x in guard]
