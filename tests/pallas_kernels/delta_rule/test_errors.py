# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Bad arguments are refused before any work, by a message with name, wanted and got."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import (
    delta_rule,
    delta_rule_step,
    gated_delta_rule,
    gated_delta_rule_step,
    gated_linear_attention,
    gated_linear_attention_step,
    linear_attention,
)

SHAPES = {
    "q": (2, 5, 3, 4),
    "k": (2, 5, 3, 4),
    "v": (2, 5, 3, 6),
    "g": (2, 5, 3),
    "beta": (2, 5, 3),
    "initial_state": (2, 3, 4, 6),
    "segment_ids": (2, 5),
}
ARRAYS = {
    name: jnp.zeros(shape, jnp.int32 if name == "segment_ids" else jnp.float32)
    for name, shape in SHAPES.items()
}


# What each operator takes by position; all take the rest of SHAPES by name.
POSITIONAL = {
    delta_rule: ("q", "k", "v", "beta"),
    linear_attention: ("q", "k", "v"),
    gated_delta_rule: ("q", "k", "v", "g", "beta"),
    gated_linear_attention: ("q", "k", "v", "g"),
}
STEPS = {
    delta_rule_step: delta_rule,
    gated_delta_rule_step: gated_delta_rule,
    gated_linear_attention_step: gated_linear_attention,
}
OPERATORS = list(POSITIONAL)
BY_NAME = ("initial_state", "segment_ids")


def call(function=delta_rule, **changes):
    args = ARRAYS | changes
    options = {k: v for k, v in args.items() if k in BY_NAME or k not in SHAPES}
    return function(*(args[p] for p in POSITIONAL[function]), **options)


# jaxtyping would catch these first in tests; users run without it.
pytestmark = pytest.mark.usefixtures("no_jaxtyping")


@pytest.mark.parametrize("function", OPERATORS)
@pytest.mark.parametrize("name", SHAPES)
def test_wrong_rank(function, name):
    if name not in POSITIONAL[function] + BY_NAME:
        return
    with pytest.raises(ValueError, match=rf"^{name}: wanted .*got"):
        call(function, **{name: ARRAYS[name][None]})


@pytest.mark.parametrize(
    ("name", "axis"), [(n, i) for n, s in SHAPES.items() if n != "q" for i in range(len(s))]
)
@pytest.mark.parametrize("function", OPERATORS)
def test_wrong_axis(function, name, axis):
    if name not in POSITIONAL[function] + BY_NAME:
        return
    if (name, axis) == ("v", 3):  # v's last axis defines V; then the state disagrees
        name, axis = "initial_state", 3
    shape = list(SHAPES[name])
    shape[axis] += 1
    with pytest.raises(ValueError, match=rf"^{name}: wanted shape .*got"):
        call(function, **{name: jnp.zeros(shape, ARRAYS[name].dtype)})


@pytest.mark.parametrize("name", ["k", "v", "beta"])
def test_mixed_dtypes(name):
    with pytest.raises(TypeError, match=rf"^{name}: wanted q's dtype float32, got bfloat16"):
        call(**{name: ARRAYS[name].astype(jnp.bfloat16)})


def test_log_decay_of_16_bits():
    with pytest.raises(TypeError, match="^g: wanted dtype float32, got bfloat16"):
        call(gated_delta_rule, g=ARRAYS["g"].astype(jnp.bfloat16))


def test_integer_inputs():
    with pytest.raises(TypeError, match="^q: wanted dtype in .*got int32"):
        call(q=ARRAYS["q"].astype(jnp.int32))


def test_keys_without_channels():
    with pytest.raises(ValueError, match=r"^q: wanted K >= 1, got shape \(2, 5, 3, 0\)"):
        call(q=jnp.zeros((2, 5, 3, 0)), k=jnp.zeros((2, 5, 3, 0)))


def test_float64_without_x64():
    """What NumPy makes unless told otherwise; the state in float64 would not be one."""
    with pytest.raises(TypeError, match="^q: wanted fewer bits, or jax_enable_x64, got float64"):
        call(q=np.zeros(SHAPES["q"]))


def test_state_of_another_dtype():
    with pytest.raises(TypeError, match="^initial_state: wanted dtype float32, got bfloat16"):
        call(initial_state=ARRAYS["initial_state"].astype(jnp.bfloat16))


def test_segments_that_are_no_integers():
    with pytest.raises(TypeError, match="^segment_ids: wanted an integer dtype, got float32"):
        call(segment_ids=ARRAYS["segment_ids"].astype(jnp.float32))


@pytest.mark.parametrize("function", OPERATORS)
def test_unknown_chunk_size(function):
    with pytest.raises(ValueError, match=r"^chunk_size: wanted one of \(16, 32, 64, 128\), got 48"):
        call(function, chunk_size=48)


@pytest.mark.parametrize("size", [64.0, np.float32(64), "64", np.array([64, 16]), [64]])
def test_chunk_size_that_is_no_integer(size):
    with pytest.raises(ValueError, match=r"^chunk_size: wanted one of \(16, 32, 64, 128\), got"):
        call(chunk_size=size)


def test_chunk_size_of_numpy():
    assert call(chunk_size=np.int64(16)).output.shape == SHAPES["v"]


@pytest.mark.parametrize("scale", ["2", b"2"])
def test_scale_that_is_text(scale):
    with pytest.raises(TypeError, match="^scale: wanted a number, got"):
        call(scale=scale)


def test_unknown_residuals():
    with pytest.raises(ValueError, match=r"^residuals: wanted one of .*'save'.*, got 'all'"):
        call(residuals="all")


@pytest.mark.parametrize("pieces", [0, -1, 2.0, True, "4"])
def test_pieces_that_are_no_positive_integers(pieces):
    with pytest.raises(ValueError, match="^sequence_pieces: wanted an integer >= 1, got"):
        call(sequence_pieces=pieces)


@pytest.mark.parametrize("name", ["cuda", ["xla"], {}])
def test_unknown_implementation(name):
    with pytest.raises(ValueError, match="^implementation: wanted one of .*got "):
        call(implementation=name)


@pytest.mark.parametrize("name", ["pallas", "triton"])
def test_implementation_that_cannot_run_here_says_why(name):
    if jax.default_backend() == "gpu":
        pytest.skip("this machine has a GPU, where the implementation may run")
    with pytest.raises(NotImplementedError, match=rf"delta_rule\(implementation='{name}'\): \w+"):
        call(implementation=name)


def test_none_chooses_and_logs_once(caplog, monkeypatch):
    from pallas_kernels._common import dispatch

    monkeypatch.setattr(dispatch, "_announced", set())
    with caplog.at_level("INFO", logger="pallas_kernels"):
        call()
        call()
    lines = [r.getMessage() for r in caplog.records if r.name == "pallas_kernels"]
    assert len(lines) == 1
    assert "delta_rule: using implementation" in lines[0]


@pytest.mark.parametrize(
    ("step", "name"), [(s, n) for s, op in STEPS.items() for n in ("state", *POSITIONAL[op])]
)
def test_step_refuses_wrong_ranks(step, name):
    args = {k: ARRAYS[k][:, 0] for k in POSITIONAL[STEPS[step]]}
    args["state"] = ARRAYS["initial_state"]
    args[name] = args[name][None]
    with pytest.raises(ValueError, match=rf"^{name}: wanted"):
        step(args.pop("state"), **args)
