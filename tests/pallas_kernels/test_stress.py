# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Operators at the edge: keys repeated, tiny, huge; beta 0 to 2; NaN; a million tokens."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import (
    delta_rule,
    gated_delta_rule,
    gated_linear_attention,
    linear_attention,
    short_conv,
)
from tests.helpers.compare import BOUNDS, assert_close, equal_bits
from tests.helpers.operators import (
    calling,
    check_no_tokens,
    check_operator,
    log_decays,
    outputs_and_gradients,
    random_state,
)
from tests.pallas_kernels import test_selective_scan, test_wkv

OPERATORS = {
    "delta_rule": (delta_rule, ("q", "k", "v", "beta", "initial_state")),
    "gated_delta_rule": (gated_delta_rule, ("q", "k", "v", "g", "beta", "initial_state")),
    "gated_linear_attention": (gated_linear_attention, ("q", "k", "v", "g", "initial_state")),
}
CI = "delta_rule"  # the others are made of the same parts
KINDS = [n if n == CI else pytest.param(n, marks=pytest.mark.slow) for n in OPERATORS]
BATCH, LENGTH, HEADS, SIZE = 2, 67, 2, 8  # a chunk, and three tokens over


@functools.cache
def function(name, implementation):
    """The same object for the same operator, so that it is compiled once."""
    return functools.partial(calling(OPERATORS[name][0]), implementation=implementation)


def make_inputs(length=LENGTH, batch=BATCH, heads=HEADS):
    """Keys of norm 1, beta in (0, 1), every decay; by name."""
    shape = (batch, length, heads, SIZE)
    q, k, v = (jax.random.normal(key, shape) for key in jax.random.split(jax.random.key(0), 3))
    return {
        "q": q,
        "k": k / jnp.linalg.norm(k, axis=-1, keepdims=True),
        "v": v,
        "g": log_decays(shape[:3], jnp.float32),
        "beta": jax.random.uniform(jax.random.key(4), shape[:3]),
        "initial_state": random_state(batch, heads, SIZE, SIZE, jnp.float32),
    }


def scaled(inputs, exponent):
    """Keys of norm 10^exponent, beta |k|^2 at most 2, so that the recurrence stays bounded."""
    norm = jnp.asarray(10.0**exponent, jnp.float32) * jnp.ones((BATCH, LENGTH, HEADS))
    beta = 2 * inputs["beta"] / jnp.maximum(norm, 1) ** 2
    return inputs | {"k": inputs["k"] * norm[..., None], "beta": beta}


def full(inputs, value):
    return inputs | {"beta": jnp.full_like(inputs["beta"], value)}


def repeated(inputs):
    return full(inputs, 2.0) | {"k": jnp.broadcast_to(inputs["k"][:, :1], inputs["k"].shape)}


MIXED = np.random.default_rng(0).uniform(-20, 4, (BATCH, LENGTH, HEADS))
CASES = {
    "repeated_keys_beta_2": repeated,
    "keys_of_norm_1e-20": lambda inputs: scaled(inputs, -20.0),
    "keys_of_norm_1e4": lambda inputs: scaled(inputs, 4.0),
    "keys_of_every_norm": lambda inputs: scaled(inputs, MIXED),
    "keys_zero": lambda inputs: inputs | {"k": jnp.zeros_like(inputs["k"])},
    "beta_0": lambda inputs: full(inputs, 0.0),
    "beta_1": lambda inputs: full(inputs, 1.0),
    "beta_2": lambda inputs: full(inputs, 2.0),
}
SEGMENTS = {
    "whole": np.zeros((BATCH, LENGTH), np.int32),
    "every_token": np.broadcast_to(np.arange(LENGTH, dtype=np.int32), (BATCH, LENGTH)),
    "some": np.broadcast_to(
        np.searchsorted([1, 2, 40, 63, 64, 65], np.arange(LENGTH), "right"), (BATCH, LENGTH)
    ).astype(np.int32),
}


@pytest.mark.parametrize("segments", SEGMENTS)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", KINDS)
def test_inputs_at_the_edge_agree_with_the_definition(x64, name, case, segments):
    inputs, names = CASES[case](make_inputs()), OPERATORS[name][1]
    args = tuple(inputs[n].astype(jnp.float32) for n in names)
    fast, definition = function(name, "xla"), function(name, "reference")
    check_operator(fast, definition, names, args, jnp.asarray(SEGMENTS[segments]))


@pytest.mark.parametrize("name", KINDS)
def test_segments_without_tokens_change_nothing(name):
    """Ids 0, 1, 2, ... and ids between which others have no token: the same bits."""
    inputs, names = make_inputs(), OPERATORS[name][1]
    args = tuple(inputs[n] for n in names)
    cotangents = (args[names.index("v")], args[-1])
    run = functools.partial(outputs_and_gradients, function(name, "xla"), args, cotangents)
    assert equal_bits(*(run(jnp.asarray(SEGMENTS["some"] * gap)) for gap in (1, 7)))


@pytest.mark.slow
@pytest.mark.parametrize("length", [0, 1, 63, 64, 65])
@pytest.mark.parametrize("name", OPERATORS)
def test_lengths_about_a_chunk(x64, name, length):
    """A chunk has 64 tokens; every token's own segment, and one for all."""
    inputs, names = make_inputs(length), OPERATORS[name][1]
    args = tuple(inputs[n].astype(jnp.float32) for n in names)
    if not length:
        return check_no_tokens(function(name, "xla"), args)
    for kind in ("whole", "every_token"):
        ids = jnp.asarray(SEGMENTS[kind][:, :length])
        check_operator(function(name, "xla"), function(name, "reference"), names, args, ids)


@functools.cache
def gradients(name, implementation):
    """Outputs and the gradients of all inputs, compiled."""
    run = function(name, implementation)

    def compute(*args):
        out, vjp = jax.vjp(lambda *args: tuple(run(*args, None)), *args)
        return (*out, *vjp(out))

    return jax.jit(compute)


@pytest.mark.parametrize(
    "implementation", ["xla", pytest.param("reference", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("name", KINDS)
def test_nan_in_one_row_never_reaches_another(name, implementation):
    """Bit for bit, forward and backward, whichever input it is in."""
    inputs, names = make_inputs(), OPERATORS[name][1]
    run = gradients(name, implementation)
    clean = jax.tree.map(lambda x: x[1], run(*(inputs[n] for n in names)))
    for bad in names:
        poisoned = inputs | {bad: inputs[bad].at[0].set(jnp.nan)}
        results = run(*(poisoned[n] for n in names))
        assert not np.isfinite(results[0][0]).all()
        assert equal_bits(jax.tree.map(lambda x: x[1], results), clean), bad


@pytest.mark.slow
@pytest.mark.parametrize("name", OPERATORS)
def test_the_state_does_not_drift_over_a_million_tokens(x64, name):
    """float32 in chunks beside the recurrence in float64, 2^20 tokens on."""
    inputs, names = make_inputs(2**20, batch=1, heads=1), OPERATORS[name][1]
    args = tuple(inputs[n].astype(jnp.float32) for n in names)
    wide = tuple(x.astype(jnp.float64) for x in args)
    output, state = jax.jit(function(name, "xla"))(*args, None)
    wanted_output, wanted_state = jax.jit(function(name, "reference"))(*wide, None)
    assert_close("state", state, wanted_state, BOUNDS["float32"])
    last = slice(-1000, None)
    assert_close("output", output[:, last], wanted_output[:, last], BOUNDS["float32"])


def linear(q, k, v):
    return linear_attention(q, k, v, chunk_size=16)


def linear_in_sums(q, k, v):
    scale = q.shape[-1] ** -0.5
    scores = jnp.tril(scale * jnp.einsum("bthk,bshk->bhts", q, k))
    return jnp.einsum("bhts,bshv->bthv", scores, v), jnp.einsum("bthk,bthv->bhkv", k, v)


class Other(NamedTuple):
    """An operator that has one implementation: both are called with what `make` makes.

    `make`: tokens, rows -> arguments; `rows`: which of them have a row for every sequence.
    """

    fast: Callable
    definition: Callable
    make: Callable
    rows: tuple[int, ...]


OTHERS = {
    "linear_attention": Other(
        linear,
        linear_in_sums,
        lambda t, rows: [make_inputs(t, rows, 1)[n] for n in "qkv"],
        (0, 1, 2),
    ),
    "selective_scan": Other(
        test_selective_scan.chunked,
        test_selective_scan.recur,
        lambda t, rows: test_selective_scan.make_args(t, "float32", (rows, 2, 4)),
        (0, 1, 3, 4, 5),
    ),
    "wkv": Other(
        test_wkv.in_blocks,
        test_wkv.recur,
        lambda t, rows: [x[:rows] if x.ndim > 1 else x for x in test_wkv.make_args(t, "float32")],
        (0, 1),
    ),
}


def check_other(name, tokens, pick):
    """What `pick` takes of the results in float32 beside the definition's in float64."""
    other = OTHERS[name]
    args = [x.astype(jnp.float32) for x in other.make(tokens, 1)]
    got = jax.jit(lambda *args: pick(other.fast(*args)))(*args)
    wide = (x.astype(jnp.float64) for x in args)
    wanted = jax.jit(lambda *args: pick(other.definition(*args)))(*wide)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert_close(f"{name}, {tokens} tokens", a, b, BOUNDS["float32"])


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_other_operators_do_not_drift_over_a_million_tokens(x64, name):
    """The last state, in float32, beside the definition in float64."""
    check_other(name, 2**20, lambda results: results[1])


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_lengths_about_a_chunk_of_other_operators(x64, name):
    """Theirs has 16 tokens here; none at all is in their own tests."""
    for tokens in (1, 15, 16, 17):
        check_other(name, tokens, lambda results: results)


@pytest.mark.parametrize("name", [*OTHERS, "short_conv"])
def test_nan_in_one_row_never_reaches_another_in_other_operators(name):
    """Outputs, states and the gradients of all that has rows, bit for bit."""
    if name == "short_conv":
        x, weight = make_inputs()["q"].reshape(BATCH, LENGTH, -1), jnp.ones((4, HEADS * SIZE))
        function, args, rows = lambda x: short_conv(x, weight), [x], (0,)
    else:
        function, _, make, rows = OTHERS[name]
        args = make(LENGTH, BATCH)

    @jax.jit
    def run(*args):
        def of_rows(*changed):
            whole = list(args)
            for place, x in zip(rows, changed, strict=True):
                whole[place] = x
            return function(*whole)

        out, vjp = jax.vjp(of_rows, *(args[place] for place in rows))
        return out, vjp(out)

    clean = jax.tree.map(lambda x: x[1], run(*args))
    for place in rows:
        poisoned = list(args)
        poisoned[place] = args[place].at[0].set(jnp.nan)
        results = run(*poisoned)
        assert not np.isfinite(jax.tree.leaves(results)[0][0]).all()
        assert equal_bits(jax.tree.map(lambda x: x[1], results), clean), place
