# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The gated delta rule: chunkwise form, step and wrong versions against the definition."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import gated_delta_rule, gated_delta_rule_step
from pallas_kernels.delta_rule.workloads import make_inputs
from tests.helpers.compare import assert_close
from tests.helpers.operators import (
    calling,
    check_definition,
    check_keeps_inputs_only,
    check_no_tokens,
    check_operator,
    check_steps,
    log_decays,
    random_segments,
    random_state,
)

NAMES = ("q", "k", "v", "g", "beta", "initial_state")


def make_args(length, dtype, *, batch=2, heads=2, k_dim=16, v_dim=24, per_channel=False, **options):
    q, k, v, beta = make_inputs(
        jax.random.key(0), batch, length, heads, k_dim, v_dim, dtype, **options
    )
    state = random_state(batch, heads, k_dim, v_dim, dtype)
    g = log_decays(q.shape if per_channel else q.shape[:3], dtype)
    return q, k, v, g, beta, state


run = calling(gated_delta_rule)
define = functools.partial(run, implementation="reference")
run16 = functools.partial(run, chunk_size=16)


@pytest.mark.parametrize(
    ("per_channel", "dtype", "chunk_size"),
    [
        (False, "float32", 64),
        (False, "bfloat16", 16),
        (True, "float32", 32),
        pytest.param(True, "bfloat16", 64, marks=pytest.mark.slow),
    ],
)
def test_outputs_and_gradients_agree_with_float64_definition(x64, per_channel, dtype, chunk_size):
    """Keys that repeat, beta in [1, 2], decays up to infinity, segments, a remainder."""
    options = {"per_channel": per_channel, "keys": "repeated", "beta_range": (1.0, 2.0)}
    args = make_args(150, dtype, **options)
    fast = functools.partial(run, chunk_size=chunk_size)
    check_operator(fast, define, NAMES, args, random_segments(2, 150, 40))


@pytest.mark.parametrize("per_channel", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_steps_equal_the_sequence(x64, per_channel):
    *inputs, state = make_args(12, "float64", per_channel=per_channel)
    check_steps(gated_delta_rule_step, define, run16, inputs, state)


def test_backward_keeps_the_inputs_only():
    args = make_args(512, "float32")
    check_keeps_inputs_only(run, args)
    with pytest.raises(AssertionError):
        check_keeps_inputs_only(define, args)


def test_no_tokens():
    check_no_tokens(run, make_args(0, "float32"))


def test_forward_mode(x64):
    args = make_args(40, "float64")
    tangents = tuple(jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape) for x in args)

    def along(function):
        return jax.jit(lambda a, t: jax.jvp(lambda *a: function(*a, None).output, a, t)[1])

    assert_close("tangent", along(run16)(args, tangents), along(define)(args, tangents), 1e-12)


def _channels(g):
    """[B, H] or [B, H, K] as factors of rows of S."""
    return g[..., None, None] if g.ndim == 2 else g[..., None]


def _token(kept=np.exp, corrected=lambda decayed, state: decayed, decays_writes=False):
    def token(state, q, k, v, g, beta):
        decay = _channels(kept(g))
        held = np.einsum("bhk,bhkv->bhv", k, corrected(decay * state, state))
        write = k[..., :, None] * (beta[..., None] * (v - held))[..., None, :]
        new = decay * (state + write) if decays_writes else decay * state + write
        return new, np.einsum("bhk,bhkv->bhv", q, new) / 4

    return token


MUTANTS = {
    "no_decay": _token(kept=np.ones_like),
    "decay_squared": _token(kept=lambda g: np.exp(2 * g)),
    "corrects_by_the_undecayed_state": _token(corrected=lambda decayed, state: state),
    "no_correction": _token(corrected=lambda decayed, state: 0 * state),
    "decays_what_it_writes": _token(decays_writes=True),
}


def _correct_before_decay(state, q, k, v, g, beta):
    held = np.einsum("bhk,bhkv->bhv", k, state)
    write = beta[..., None] * k
    state = state - write[..., :, None] * held[..., None, :]
    new = _channels(np.exp(g)) * state + write[..., :, None] * v[..., None, :]
    return new, np.einsum("bhk,bhkv->bhv", q, new) / 4


# With a scalar decay the order of decay and correction does not matter.
CHANNEL_MUTANTS = MUTANTS | {
    "one_decay_for_all_channels": _token(kept=lambda g: np.exp(g.mean(-1, keepdims=True))),
    "corrects_before_it_decays": _correct_before_decay,
}


@pytest.mark.parametrize(("per_channel", "mutants"), [(False, MUTANTS), (True, CHANNEL_MUTANTS)])
def test_the_definition_is_the_papers_equation_and_no_mutant(x64, per_channel, mutants):
    """S_t = S_{t-1} diag(a_t) (I - beta_t k_t k_t^T) + beta_t v_t k_t^T, S transposed here."""
    *inputs, state = make_args(100, "float64", per_channel=per_channel)
    check_definition(define, _token(), mutants, inputs, state)
