# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Operators against their definitions in float64: outputs and the gradient of every argument."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.helpers.compare import BOUNDS, assert_close, rms_ratio

# For gradients of a recurrence over hundreds of tokens: XLA's older emitters (tests/conftest.py)
# copy all that is kept at every token, the newer ones, which these options bring back, write it in
# place.
LONG_SCAN = {"xla_backend_extra_options": ""}


def _outputs_and_gradients(function, args, cotangents, segment_ids):
    """Of function(*args, segment_ids): what it returns, then the gradients of `args`."""
    out, vjp = jax.vjp(lambda *args: tuple(function(*args, segment_ids)), *args)
    return (*out, *vjp(cotangents))


# Of chunkwise forms, and of recurrences over many tokens.
outputs_and_gradients = jax.jit(_outputs_and_gradients, static_argnums=0)
outputs_and_gradients_of_recurrence = jax.jit(
    _outputs_and_gradients, static_argnums=0, compiler_options=LONG_SCAN
)


def check_operator(fast, definition, names, args, segment_ids=None):
    """Compares (output, final state) and gradients of `fast` and, in float64, `definition`.

    Both are called as function(*args, segment_ids); `args` are those that `names` names, the values
    `v` and the initial state (last) among them. What `fast` gives has the inputs' dtype, but what
    belongs to the state has the state's.
    """
    v, state = args[names.index("v")], args[-1]
    cotangents = tuple(
        jax.random.normal(jax.random.key(7 + i), x.shape, jnp.float32).astype(x.dtype)
        for i, x in enumerate((v, state))
    )
    got = outputs_and_gradients(fast, args, cotangents, segment_ids)
    args, cotangents = jax.tree.map(lambda x: x.astype(jnp.float64), (args, cotangents))
    wanted = outputs_and_gradients_of_recurrence(definition, args, cotangents, segment_ids)
    labels = ("output", "final_state", *(f"d{name}" for name in names))
    for label, a, b in zip(labels, got, wanted, strict=True):
        assert_close(label, a, b, BOUNDS[v.dtype.name])
        of_state = label in ("final_state", "dinitial_state", "dg")
        assert a.dtype == (state.dtype if of_state else v.dtype), label


def calling(operator):
    """`operator` as the checks here call it: (*inputs, initial_state, segment_ids)."""

    def run(*args, chunk_size=64, implementation="xla"):
        *inputs, state, segment_ids = args
        return operator(
            *inputs,
            initial_state=state,
            segment_ids=segment_ids,
            chunk_size=chunk_size,
            implementation=implementation,
        )

    return run


def check_no_tokens(fast, args):
    """Nothing in, nothing out, and the state as it was; `args` have length 0."""
    *inputs, state = args
    v = inputs[2]
    output, final_state = fast(*inputs, state, jnp.zeros(v.shape[:2], jnp.int32))
    assert output.shape == v.shape
    assert (final_state == state).all()


def check_steps(step, definition, fast, inputs, state):
    """Token by token equals the sequence, and so does `fast` on a single token."""
    wanted_output, wanted_state = definition(*inputs, state, None)
    single, _ = fast(*(x[:, :1] for x in inputs), state, None)
    assert_close("one token", single, wanted_output[:, :1], 1e-13)
    step = jax.jit(step)
    outputs = []
    for t in range(inputs[0].shape[1]):
        output, state = step(state, *(x[:, t] for x in inputs))
        outputs.append(output)
    assert_close("output", jnp.stack(outputs, axis=1), wanted_output, 1e-13)
    assert_close("state", state, wanted_state, 1e-13)


def check_keeps_inputs_only(fast, args):
    """Between forward and backward pass `fast` keeps nothing beside `args`."""

    def forward(*args):
        return jax.vjp(lambda *args: tuple(fast(*args, None)), *args)[1]

    kept = sum(x.size for x in jax.tree.leaves(jax.eval_shape(forward, *args)))
    assert kept <= sum(x.size for x in args)


def log_decays(shape, dtype):
    """Log decays of every strength: most near 0, some near -1, a few that leave nothing: -inf."""
    x = jax.random.uniform(jax.random.key(11), shape, jnp.float32, -8.0, 5.0)
    g = jnp.where(x > 4.9, -jnp.inf, -jnp.exp(x))
    return g.astype(jnp.promote_types(dtype, jnp.float32))


def random_state(batch, heads, k_dim, v_dim, dtype):
    """An initial state for inputs of `dtype`."""
    shape = (batch, heads, k_dim, v_dim)
    return jax.random.normal(jax.random.key(12), shape, jnp.promote_types(dtype, jnp.float32))


def random_segments(batch, length, mean_length=90):
    """Ids [batch, length] that change at random places."""
    boundaries = jax.random.bernoulli(jax.random.key(5), 1 / mean_length, (batch, length))
    return jnp.cumsum(boundaries, axis=1)


def _recur(token, inputs, state):
    outputs = []
    inputs, state = [np.asarray(x) for x in inputs], np.asarray(state)
    for t in range(inputs[0].shape[1]):
        state, output = token(state, *(x[:, t] for x in inputs))
        outputs.append(output)
    return np.stack(outputs, axis=1), state


def check_definition(definition, token, mutants, inputs, state):
    """`definition` is the recurrence (state, o_t) = token(state, *inputs_t), and none of `mutants`.

    They are written in NumPy and owe nothing to the library. The mutants must miss the loosest
    bound of any comparison, the definition meets the tightest.
    """
    wanted_output, wanted_state = definition(*inputs, state, None)
    output, final_state = _recur(token, inputs, state)
    assert_close("output", output, wanted_output, min(BOUNDS.values()))
    assert_close("final_state", final_state, wanted_state, min(BOUNDS.values()))
    for name, mutant in mutants.items():
        error = rms_ratio(_recur(mutant, inputs, state)[0], wanted_output)
        assert error > max(BOUNDS.values()), name
