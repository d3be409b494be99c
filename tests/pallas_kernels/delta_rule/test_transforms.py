# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""vmap, jit, checkpoint, reverse over reverse, forward mode: against the definition's own."""

import jax
import jax.numpy as jnp
import pytest

from pallas_kernels import delta_rule
from pallas_kernels.delta_rule.workloads import make_inputs
from tests.helpers.compare import assert_close

BOUND = 1e-11


def inputs(seed=0, batch=2):
    args = make_inputs(jax.random.key(seed), batch, 40, 2, 8, 12, "float64")
    state = jax.random.normal(jax.random.key(seed + 1), (batch, 2, 8, 12), jnp.float64)
    return (*args, state)


SEGMENTS = jnp.cumsum(jnp.zeros((2, 40), jnp.int32).at[:, 13].set(1).at[1, 30].set(1), axis=1)


def operator(implementation, segment_ids=None):
    def run(q, k, v, beta, state):
        return delta_rule(
            q,
            k,
            v,
            beta,
            initial_state=state,
            segment_ids=segment_ids,
            chunk_size=16,
            implementation=implementation,
        )

    return run


def loss(implementation, segment_ids=None):
    run = operator(implementation, segment_ids)

    def value(args):
        out = run(*args)
        return jnp.sum(jnp.sin(out.output)) + jnp.sum(out.final_state**2)

    return value


def assert_trees_close(got, wanted):
    for i, (a, b) in enumerate(zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True)):
        assert_close(f"leaf {i}", a, b, BOUND)


segments = pytest.mark.parametrize("segment_ids", [None, SEGMENTS], ids=["one", "segments"])


@segments
def test_forward_mode(x64, segment_ids):
    args, tangents = inputs(), inputs(seed=10)

    def derivative(implementation):
        run = operator(implementation, segment_ids)
        return jax.jit(lambda args, tangents: jax.jvp(run, args, tangents))(args, tangents)

    assert_trees_close(derivative("xla"), derivative("reference"))


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jax.checkpoint], ids=["", "jit", "remat"])
def test_reverse_mode(x64, wrap):
    got = jax.grad(wrap(loss("xla", SEGMENTS)))(inputs())
    assert_trees_close(got, jax.jit(jax.grad(loss("reference", SEGMENTS)))(inputs()))


@segments
def test_reverse_over_reverse(x64, segment_ids):
    """The gradient of the gradient's squared norm."""

    def squared_norm(implementation):
        def value(args):
            grads = jax.grad(loss(implementation, segment_ids))(args)
            return sum(jnp.sum(g**2) for g in grads)

        return value

    got = jax.jit(jax.grad(squared_norm("xla")))(inputs())
    assert_trees_close(got, jax.jit(jax.grad(squared_norm("reference")))(inputs()))


def test_forward_over_reverse_and_reverse_over_forward_equal_reverse_over_reverse(x64):
    args, direction = inputs(), inputs(seed=10)
    value = loss("xla")

    def forward_over_reverse(value):
        return jax.jit(lambda a: jax.jvp(jax.grad(value), (a,), (direction,))[1])(args)

    def along(args):
        return jax.jvp(value, (args,), (direction,))[1]

    wanted = forward_over_reverse(loss("reference"))
    assert_trees_close(forward_over_reverse(value), wanted)
    assert_trees_close(jax.jit(jax.grad(along))(args), wanted)


def test_forward_over_forward(x64):
    args, direction = inputs(), inputs(seed=10)

    def second(implementation):
        def along(args):
            return jax.jvp(loss(implementation), (args,), (direction,))[1]

        return jax.jit(lambda a: jax.jvp(along, (a,), (direction,))[1])(args)

    assert_close("second derivative", second("xla"), second("reference"), BOUND)


@pytest.mark.parametrize("order", ["vmap(grad)", "grad(vmap)"])
def test_vmap_and_grad_commute_with_the_loop(x64, order):
    stacked = jax.tree.map(lambda *x: jnp.stack(x, axis=1), inputs(0), inputs(1), inputs(2))
    value = loss("xla", SEGMENTS)
    if order == "vmap(grad)":
        got = jax.jit(jax.vmap(jax.grad(value), in_axes=1, out_axes=1))(stacked)
    else:
        got = jax.jit(jax.grad(lambda a: jnp.sum(jax.vmap(value, in_axes=1)(a))))(stacked)
    wanted = jax.jit(jax.grad(loss("reference", SEGMENTS)))
    loop = [wanted(inputs(i)) for i in range(3)]
    assert_trees_close(got, jax.tree.map(lambda *x: jnp.stack(x, axis=1), *loop))


def test_vmap_over_some_arguments_and_forward_mode(x64):
    q, k, v, beta, state = inputs()
    betas = jnp.stack([beta, beta / 2, 0 * beta])

    def along(implementation):
        def derivative(beta):
            run = operator(implementation)
            return jax.jvp(lambda b: run(q, k, v, b, state), (beta,), (jnp.ones_like(beta),))

        return derivative

    got = jax.jit(jax.vmap(along("xla")))(betas)
    loop = [jax.jit(along("reference"))(b) for b in betas]
    assert_trees_close(got, jax.tree.map(lambda *x: jnp.stack(x), *loop))


def test_gradient_of_one_argument_alone(x64):
    args = inputs()
    wanted = jax.jit(jax.grad(loss("reference")))(args)
    for i in (1, 4):
        got = jax.grad(lambda x, i=i: loss("xla")((*args[:i], x, *args[i + 1 :])))(args[i])
        assert_close(f"argument {i}", got, wanted[i], BOUND)


@pytest.mark.parametrize("implementation", ["xla", "reference"])
def test_causality_by_gradient(implementation):
    args = make_inputs(jax.random.key(0), 1, 40, 2, 8, 12)

    def early(args):
        return jnp.sum(
            delta_rule(*args, chunk_size=16, implementation=implementation).output[:, :20]
        )

    for grad in jax.jit(jax.grad(early))(args):
        assert (grad[:, 20:] == 0).all()
        assert (jnp.abs(grad[:, :20]) > 0).any()


def test_backward_keeps_nothing_of_size_t_k_v():
    """Temporary memory of the gradient stays below an eighth of autodiff's through the scan."""
    args = make_inputs(jax.random.key(0), 1, 4096, 4, 64, 64)

    def temporaries(implementation):
        def value(args):
            return jnp.sum(delta_rule(*args, implementation=implementation).output ** 2)

        compiled = jax.jit(jax.grad(value)).lower(args).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporaries("xla") < temporaries("reference") / 8
