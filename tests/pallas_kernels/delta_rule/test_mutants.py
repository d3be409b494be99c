# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The comparator must reject wrong delta rules: each mutant here fails it, in every precision."""

import jax
import jax.numpy as jnp
import pytest

from pallas_kernels import delta_rule
from pallas_kernels.delta_rule.workloads import make_inputs
from tests.helpers.compare import BOUNDS, assert_close


def _scan(args, token, state):
    """A recurrence like the definition's, with `token` put in its place."""

    def step(state, inputs):
        return token(state, *inputs)

    time_first = [jnp.moveaxis(x, 1, 0) for x in args]
    final_state, output = jax.lax.scan(step, state, time_first)
    return jnp.moveaxis(output, 0, 1), final_state


def _token(write, read, scale):
    def token(state, q, k, v, beta):
        held = jnp.einsum("bhk,bhkv->bhv", k, state)
        new = state + k[..., :, None] * write(v, held, beta[..., None])[..., None, :]
        return new, scale * jnp.einsum("bhk,bhkv->bhv", q, read(state, new))

    return token


def right(v, held, beta):
    return beta * (v - held)


def new_state(old, new):
    return new


def no_correction(args, state, scale):
    return _scan(args, _token(lambda v, held, beta: beta * v, new_state, scale), state)


def beta_squared(args, state, scale):
    return _scan(args, _token(lambda v, held, b: b * b * (v - held), new_state, scale), state)


def missing_scale(args, state, scale):
    return _scan(args, _token(right, new_state, 1.0), state)


def reads_before_writing(args, state, scale):
    return _scan(args, _token(right, lambda old, new: old, scale), state)


def state_lost_at_a_chunk_edge(args, state, scale):
    outputs = []
    for start in range(0, args[0].shape[1], 64):
        piece = [x[:, start : start + 64] for x in args]
        output, final_state = _scan(piece, _token(right, new_state, scale), state)
        outputs.append(output)
        state = jnp.zeros_like(state)
    return jnp.concatenate(outputs, axis=1), final_state


def initial_state_ignored(args, state, scale):
    return _scan(args, _token(right, new_state, scale), jnp.zeros_like(state))


def all_zero(args, state, scale):
    return jnp.zeros_like(args[2]), jnp.zeros_like(state)


def state_transposed(args, state, scale):
    output, final_state = _scan(args, _token(right, new_state, scale), state)
    return output, jnp.swapaxes(final_state, -1, -2)


MUTANTS = [
    no_correction,
    beta_squared,
    missing_scale,
    reads_before_writing,
    state_lost_at_a_chunk_edge,
    initial_state_ignored,
    all_zero,
    state_transposed,
]


def _agrees(outputs, wanted, bound) -> bool:
    try:
        for name, a, b in zip(("output", "final_state"), outputs, wanted, strict=True):
            assert_close(name, a, b, bound)
    except AssertionError:
        return False
    return True


def _case():
    args = make_inputs(jax.random.key(0), 2, 200, 3, 16, 16, "float64")
    state = jax.random.normal(jax.random.key(1), (2, 3, 16, 16), jnp.float64)
    wanted = delta_rule(*args, initial_state=state, implementation="reference")
    return args, state, wanted


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.__name__)
def test_mutant_is_rejected_by_the_loosest_bound(x64, mutant):
    args, state, wanted = _case()
    assert not _agrees(mutant(args, state, 16**-0.5), wanted, max(BOUNDS.values()))


def test_the_right_recurrence_is_accepted_by_the_tightest_bound(x64):
    """So the mutants fail for what is wrong in them and not for how they are written."""
    args, state, wanted = _case()
    right_one = _scan(args, _token(right, new_state, 16**-0.5), state)
    assert _agrees(right_one, wanted, min(BOUNDS.values()))


@pytest.mark.parametrize("name", ["dq", "dk", "dv", "dbeta", "dinitial_state"])
def test_a_gradient_without_the_correction_is_rejected(x64, name):
    args, state, _ = _case()
    index = ["dq", "dk", "dv", "dbeta", "dinitial_state"].index(name)

    def right_loss(*a):
        out = delta_rule(*a[:4], initial_state=a[4], implementation="reference")
        return jnp.sum(out.output**2) + jnp.sum(out.final_state**2)

    def wrong_loss(*a):
        output, final_state = no_correction(a[:4], a[4], 16**-0.5)
        return jnp.sum(output**2) + jnp.sum(final_state**2)

    wanted = jax.grad(right_loss, argnums=index)(*args, state)
    wrong = jax.grad(wrong_loss, argnums=index)(*args, state)
    with pytest.raises(AssertionError, match="RMS ratio"):
        assert_close(name, wrong, wanted, max(BOUNDS.values()))
