# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Gated linear attention: chunkwise form and wrong versions against the definition in float64."""

import functools

import jax
import numpy as np
import pytest

from pallas_kernels import gated_linear_attention, gated_linear_attention_step
from pallas_kernels.delta_rule.workloads import make_inputs
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

NAMES = ("q", "k", "v", "g", "initial_state")


def make_args(length, dtype, *, per_channel=True):
    q, k, v, _ = make_inputs(jax.random.key(0), 2, length, 2, 16, 24, dtype)
    g = log_decays(q.shape if per_channel else q.shape[:3], dtype)
    return q, k, v, g, random_state(2, 2, 16, 24, dtype)


run = calling(gated_linear_attention)
define = functools.partial(run, implementation="reference")
run16 = functools.partial(run, chunk_size=16)


@pytest.mark.parametrize(
    ("per_channel", "dtype", "chunk_size"),
    [
        (True, "float32", 64),
        (True, "bfloat16", 16),
        (False, "float32", 16),
    ],
)
def test_outputs_and_gradients_agree_with_float64_definition(x64, per_channel, dtype, chunk_size):
    """Decays up to infinity, segments, a remainder."""
    args = make_args(150, dtype, per_channel=per_channel)
    fast = functools.partial(run, chunk_size=chunk_size)
    check_operator(fast, define, NAMES, args, random_segments(2, 150, 40))


@pytest.mark.parametrize("per_channel", [True, False])
def test_steps_equal_the_sequence(x64, per_channel):
    *inputs, state = make_args(12, "float64", per_channel=per_channel)
    check_steps(gated_linear_attention_step, define, run16, inputs, state)


def test_backward_keeps_the_inputs_only():
    args = make_args(512, "float32")
    check_keeps_inputs_only(run, args)
    with pytest.raises(AssertionError):
        check_keeps_inputs_only(define, args)


def test_no_tokens():
    check_no_tokens(run, make_args(0, "float32"))


def _token(kept=np.exp, decays_writes=False):
    def token(state, q, k, v, g):
        decay = kept(g)[..., None]
        write = k[..., :, None] * v[..., None, :]
        new = decay * (state + write) if decays_writes else decay * state + write
        return new, np.einsum("bhk,bhkv->bhv", q, new) / 4

    return token


MUTANTS = {
    "no_decay": _token(kept=np.ones_like),
    "decay_squared": _token(kept=lambda g: np.exp(2 * g)),
    "one_decay_for_all_channels": _token(kept=lambda g: np.exp(g[..., :1])),
    "decays_what_it_writes": _token(decays_writes=True),
}


def test_the_definition_is_the_papers_equation_and_no_mutant(x64):
    """Yang et al. 2023, arXiv:2312.06635: S_t = (alpha_t^T 1) * S_{t-1} + k_t^T v_t."""
    *inputs, state = make_args(100, "float64")
    check_definition(define, _token(), MUTANTS, inputs, state)
