# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The chunkwise form against the definition in float64: outputs and every gradient."""

import functools
import itertools

import jax
import jax.numpy as jnp
import pytest

from pallas_kernels import DeltaRuleOutput, delta_rule
from pallas_kernels.delta_rule.workloads import make_inputs
from tests.helpers.compare import BOUNDS, assert_close
from tests.helpers.operators import LONG_SCAN, random_segments

NAMES = ("output", "final_state", "dq", "dk", "dv", "dbeta", "dinitial_state")


def outputs_and_gradients(args, cotangents, segment_ids, *, chunk_size=64, implementation):
    """All of NAMES; `args` are q, k, v, beta, initial_state."""

    def run(*args):
        return delta_rule(
            *args[:4],
            initial_state=args[4],
            segment_ids=segment_ids,
            chunk_size=chunk_size,
            implementation=implementation,
        )

    out, vjp = jax.vjp(run, *args)
    return dict(zip(NAMES, (*out, *vjp(cotangents)), strict=True))


STATIC = ("chunk_size", "implementation")
in_chunks = functools.partial(
    jax.jit(outputs_and_gradients, static_argnames=STATIC), implementation="xla"
)
by_definition = functools.partial(
    jax.jit(outputs_and_gradients, static_argnames=STATIC, compiler_options=LONG_SCAN),
    implementation="reference",
)


def check(args, *, segment_ids=None, chunk_size=64, bound=None):
    """Compares "xla" on `args` with the definition on the same numbers in float64."""
    batch, _, heads, k_dim = args[0].shape
    dtype, v_dim = args[0].dtype, args[2].shape[-1]
    state_dtype = jnp.promote_types(dtype, jnp.float32)
    keys = jax.random.split(jax.random.key(3), 3)
    state_shape = (batch, heads, k_dim, v_dim)
    args = (*args, jax.random.normal(keys[0], state_shape, state_dtype))
    cotangents = DeltaRuleOutput(
        jax.random.normal(keys[1], args[2].shape, jnp.float32).astype(dtype),
        jax.random.normal(keys[2], state_shape, state_dtype),
    )
    got = in_chunks(args, cotangents, segment_ids, chunk_size=chunk_size)
    wide_args, wide_cotangents = jax.tree.map(lambda x: x.astype(jnp.float64), (args, cotangents))
    wanted = by_definition(wide_args, wide_cotangents, segment_ids)
    for name in NAMES:
        assert_close(name, got[name], wanted[name], bound or BOUNDS[dtype.name])
    return got


# The grid of the accuracy promise: B2 T1000 H3 K48 V80.
CASES = {
    "plain": {},
    "segments": {"segments": True},
    "beta_up_to_2": {"beta_range": (0.0, 2.0)},
    "repeated_keys": {"keys": "repeated"},
    "repeated_keys_beta_1_to_2_segments": {
        "keys": "repeated",
        "beta_range": (1.0, 2.0),
        "segments": True,
    },
}


HARDEST = "repeated_keys_beta_1_to_2_segments"
# The hardest case is tried in these dtypes as well.
EASIER = (("plain", "bfloat16"), ("segments", "float32"), ("beta_up_to_2", "bfloat16"))


@pytest.mark.parametrize(
    ("case", "dtype"),
    [
        pytest.param(case, dtype, marks=[pytest.mark.slow] * ((case, dtype) in EASIER))
        for case in CASES
        for dtype in ("float32", "bfloat16")
    ]
    + [(HARDEST, "float16"), (HARDEST, "float64")],
)
def test_outputs_and_gradients_agree_with_float64_definition(x64, case, dtype):
    options = dict(CASES[case])
    segments = random_segments(2, 1000) if options.pop("segments", False) else None
    args = make_inputs(jax.random.key(0), 2, 1000, 3, 48, 80, dtype, **options)
    check(args, segment_ids=segments)


@pytest.mark.parametrize(
    ("length", "chunk_size"),
    [
        (0, 64),  # nothing at all
        (1, 64),  # a single token
        pytest.param(64, 64, marks=pytest.mark.slow),  # exactly one
        (65, 64),  # one over
        (33, 16),  # remainders of the other chunk sizes
        pytest.param(130, 128, marks=pytest.mark.slow),
    ],
)
def test_any_length_and_remainder(x64, length, chunk_size):
    args = make_inputs(jax.random.key(1), 2, length, 2, 16, 24, "float64")
    segments = random_segments(2, length, mean_length=20)
    check(args, segment_ids=segments, chunk_size=chunk_size)


def test_results_have_the_documented_dtypes(x64):
    args = make_inputs(jax.random.key(1), 1, 20, 2, 16, 24, "bfloat16")
    got = check(args)
    dtypes = {name: str(x.dtype) for name, x in got.items()}
    half = dict.fromkeys(("output", "dq", "dk", "dv", "dbeta"), "bfloat16")
    assert dtypes == half | {"final_state": "float32", "dinitial_state": "float32"}


@pytest.mark.parametrize("implementation", ["xla", "reference"])
def test_two_halves_with_carried_state_equal_the_whole(x64, implementation):
    args = make_inputs(jax.random.key(2), 2, 150, 2, 16, 24, "float64")
    whole = delta_rule(*args, implementation=implementation)
    first = delta_rule(*(x[:, :70] for x in args), implementation=implementation)
    second = delta_rule(
        *(x[:, 70:] for x in args),
        initial_state=first.final_state,
        implementation=implementation,
    )
    joined = jnp.concatenate([first.output, second.output], axis=1)
    assert_close("output", joined, whole.output, 1e-13)
    assert_close("final_state", second.final_state, whole.final_state, 1e-13)


@pytest.mark.parametrize("implementation", ["xla", "reference"])
def test_segments_equal_separate_sequences(x64, implementation):
    """Also: an id that comes back later in the row is another segment."""
    args = make_inputs(jax.random.key(4), 1, 150, 2, 16, 24, "float64")
    cuts = (0, 40, 41, 128, 150)
    segment_ids = jnp.concatenate(
        [jnp.full((b - a,), i % 2) for i, (a, b) in enumerate(itertools.pairwise(cuts))]
    )[None]
    state = jax.random.normal(jax.random.key(5), (1, 2, 16, 24), jnp.float64)
    packed = delta_rule(
        *args, initial_state=state, segment_ids=segment_ids, implementation=implementation
    )
    outputs = []
    for i, (a, b) in enumerate(itertools.pairwise(cuts)):
        initial = state if i == 0 else None
        piece = delta_rule(
            *(x[:, a:b] for x in args), initial_state=initial, implementation=implementation
        )
        outputs.append(piece.output)
    assert_close("output", packed.output, jnp.concatenate(outputs, axis=1), 1e-13)
    assert_close("final_state", packed.final_state, piece.final_state, 1e-13)


def test_orthonormal_keys_with_beta_1_are_recalled_exactly():
    length = dim = 48
    k = jnp.eye(dim)[None, :, None, :]
    v = jax.random.normal(jax.random.key(0), (1, length, 1, 5))
    beta = jnp.ones((1, length, 1))
    state = delta_rule(k, k, v, beta, implementation="xla").final_state
    assert_close("recalled", state[0, 0], v[0, :, 0], 1e-6)


def test_beta_0_leaves_the_state():
    q, k, v, beta = make_inputs(jax.random.key(0), 1, 100, 2, 16, 8)
    state = jax.random.normal(jax.random.key(1), (1, 2, 16, 8))
    out = delta_rule(q, k, v, 0 * beta, initial_state=state, implementation="xla")
    assert (out.final_state == state).all()
