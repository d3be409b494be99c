# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Linear attention and the selective scan over a mesh: the numbers of one device."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from pallas_kernels import (
    delta_rule,
    delta_rule_sharded,
    gated_delta_rule,
    gated_delta_rule_sharded,
    gated_linear_attention,
    gated_linear_attention_sharded,
    linear_attention,
    selective_scan,
    selective_scan_sharded,
    short_conv,
    short_conv_sharded,
    wkv,
)
from pallas_kernels._common.sharded import over_rows_and_heads
from tests.helpers.compare import assert_close
from tests.helpers.operators import log_decays, outputs_and_gradients, random_segments
from tests.helpers.selective_scan import make_args

AXES = {"rows": ("a",), "heads": ("b",), "sequence": "c"}


def mesh(*sizes):
    axes = ("a", "b", "c")
    return jax.make_mesh(sizes, axes, (AxisType.Auto,) * 3, devices=jax.devices()[: 2**2])


def attention_args(decay):
    keys = jax.random.split(jax.random.key(0), 4)
    q, k, v = (jax.random.normal(key, (2, 20, 2, 8), jnp.float64) for key in keys[:3])
    g = [] if decay == "none" else [log_decays(q.shape[:3], "float64")]
    return q, k, v, *g, jax.random.normal(keys[3], (2, 2, 8, 8), jnp.float64)


def calling(operator, **options):
    def run(*args):
        *inputs, state, ids = args
        return operator(*inputs, initial_state=state, segment_ids=ids, chunk_size=16, **options)

    return run


@pytest.mark.parametrize("decay", ["head", "none", "scan"])
def test_numbers_are_those_of_one_device(x64, decay):
    one, many = {
        "head": (gated_linear_attention, gated_linear_attention_sharded),
        "none": (
            linear_attention,
            functools.partial(gated_linear_attention_sharded, g=None),
        ),
        "scan": (selective_scan, selective_scan_sharded),
    }[decay]
    args = make_args(16, "float64") if decay == "scan" else attention_args(decay)
    length = args[0].shape[1]
    ids = random_segments(2, length, 8)
    cotangents = (jnp.cos(args[2] if decay != "scan" else args[0]), jnp.cos(args[-1]))
    wanted = outputs_and_gradients(calling(one), args, cotangents, ids)
    on_mesh = calling(many, mesh=mesh(2, 2, 1), **AXES)
    got = outputs_and_gradients(on_mesh, args, cotangents, ids)
    for i, (x, y) in enumerate(zip(got, wanted, strict=True)):
        assert_close(str(i), x, y, 1e-13)


@pytest.mark.parametrize(
    ("sizes", "rows", "seen", "implementation"),
    [
        ((2, 2, 1), 4, (2, 3), None),
        ((4, 1, 1), 4, (1, 6), None),
        ((2, 2, 1), 3, (3, 6), "xla"),  # rows that do not divide
        ((2, 1, 2), 4, (4, 6), "xla"),  # sequences that are cut
    ],
)
def test_every_device_has_its_rows_and_heads(sizes, rows, seen, implementation):
    def operator(x, ids, implementation):
        assert ids is None
        calls.append((x.shape, implementation))
        return (x,)

    calls = []
    x = jnp.arange(rows * 6.0).reshape(rows, 6)
    arguments = {"x": (x, "B H"), "ids": (None, "B T")}
    (y,) = over_rows_and_heads(operator, arguments, ("B H",), mesh=mesh(*sizes), **AXES)
    assert calls == [(seen, implementation)]
    assert (y == x).all()


QKV, BETA, STATE = jnp.zeros((2, 16, 2, 8)), jnp.zeros((2, 16, 2)), jnp.zeros((2, 2, 8, 8))
SIGNALS, CONTROLS = jnp.zeros((2, 16, 8)), jnp.zeros((2, 16, 3))


@pytest.mark.parametrize(
    ("operator", "args", "options", "error", "message"),
    [
        (delta_rule_sharded, (QKV[0], QKV, QKV, BETA), {}, ValueError, "^q: wanted 4 axes"),
        (delta_rule_sharded, ("no", QKV, QKV, BETA), {}, TypeError, "^q: wanted an array"),
        (
            delta_rule_sharded,
            (QKV, QKV, QKV, BETA),
            {"initial_state": STATE[:1]},
            ValueError,
            r"^initial_state: wanted shape \[B, H, K, V\] = \(2, 2, 8, 8\), got \(1, 2, 8, 8\)",
        ),
        (gated_delta_rule_sharded, (QKV, QKV, QKV, BETA[0], BETA), {}, ValueError, "^g: wanted 3"),
        (gated_linear_attention_sharded, (QKV[0], QKV, QKV, None), {}, ValueError, "^q: wanted 4"),
        (gated_linear_attention_sharded, (QKV, QKV, QKV, "no"), {}, TypeError, "^g: wanted an a"),
        (
            selective_scan_sharded,
            (SIGNALS, SIGNALS, jnp.zeros((3, 7)), CONTROLS, CONTROLS),
            {},
            ValueError,
            r"^a: wanted shape \[N, D\] = \(3, 8\), got \(3, 7\)",
        ),
        (short_conv_sharded, (SIGNALS[0], SIGNALS[0]), {}, ValueError, "^x: wanted 3 axes"),
    ],
)
def test_wrong_arguments_are_named(no_jaxtyping, operator, args, options, error, message):
    with pytest.raises(error, match=message):
        operator(*args, mesh=mesh(2, 2, 1), **AXES, **options)


@pytest.mark.parametrize("compiled", [False, True])
def test_no_tokens_leave_the_state_as_it_is(compiled):
    """JAX's CPU backend ended the process where eager pieces had none."""
    qkv, beta, signals, controls = (x[:, :0] for x in (QKV, BETA, SIGNALS, CONTROLS))
    calls = [
        (delta_rule_sharded, (qkv, qkv, qkv, beta), STATE + 1),
        (gated_linear_attention_sharded, (qkv, qkv, qkv, beta), STATE + 1),
        (selective_scan_sharded, (signals, signals, STATE[0, 0, :3], controls, controls), None),
    ]
    ids = jnp.zeros((2, 0), jnp.int32)
    for sizes in ((2, 1, 2), (2, 2, 1)):
        for operator, args, state in calls:
            run = functools.partial(operator, mesh=mesh(*sizes), **AXES)
            run = jax.jit(run) if compiled else run
            output, final = run(*args, initial_state=state, segment_ids=ids)
            assert output.shape == args[0].shape
            assert (final == (0 if state is None else state)).all()


def user_code(name):
    """(operator, positional arguments, which of them are spread over rows)."""
    q, k, v, g, _ = attention_args("head")
    k = k / jnp.linalg.norm(k, axis=-1, keepdims=True)
    x, dt, a, b, c, _ = make_args(20, "float64")
    channel = jnp.cos(jnp.arange(x.shape[2], dtype=x.dtype))
    return {
        "delta_rule": (delta_rule, (q, k, v, jnp.exp(g)), (True,) * 4),
        "gated_delta_rule": (gated_delta_rule, (q, k, v, g, jnp.exp(g)), (True,) * 5),
        "gated_linear_attention": (gated_linear_attention, (q, k, v, g), (True,) * 4),
        "linear_attention": (linear_attention, (q, k, v), (True,) * 3),
        "selective_scan": (selective_scan, (x, dt, a, b, c), (True, True, False, True, True)),
        "wkv": (wkv, (x, x, channel + 1, channel), (True, True, False, False)),
        "short_conv": (short_conv, (x, x[0, :3]), (True, False)),
    }[name]


@pytest.mark.parametrize("implementation", ["xla", "reference"])
@pytest.mark.parametrize(
    "name",
    [
        "delta_rule",
        "selective_scan",
        "wkv",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in (
                "gated_delta_rule",
                "gated_linear_attention",
                "linear_attention",
                "short_conv",
            )
        ),
    ],
)
def test_operators_run_in_a_users_shard_map(x64, name, implementation):
    """With JAX's own checks of what varies, and without an initial state."""
    operator, args, spread = user_code(name)
    if name in ("selective_scan", "wkv", "linear_attention") and implementation == "reference":
        pytest.skip("it has one implementation here")
    options = {} if name == "wkv" else {"implementation": implementation}

    def gradients(*args):
        def loss(*args):
            output = operator(*args, **options)
            output = output if name == "short_conv" else output[0]
            return jnp.sum(jnp.sin(output))

        return jax.grad(loss, argnums=range(len(args)))(*args)

    rows = tuple(P("a") if is_spread else P() for is_spread in spread)
    on_mesh = jax.shard_map(gradients, mesh=mesh(2, 1, 1), in_specs=rows, out_specs=rows)
    got, wanted = jax.jit(on_mesh)(*args), jax.jit(gradients)(*args)
    for i, (x, y) in enumerate(zip(got, wanted, strict=True)):
        assert_close(str(i), x, y, 1e-12)


def test_explicit_axes_are_taken_in_a_shard_map_only(x64):
    axes = jax.make_mesh((2,), ("a",), (AxisType.Explicit,), devices=jax.devices()[:2])
    with jax.set_mesh(axes):
        for name in ("delta_rule", "selective_scan", "wkv"):
            operator, args, _ = user_code(name)
            first = jax.device_put(args[0], NamedSharding(axes, P("a")))
            with pytest.raises(NotImplementedError, match="^[qxk]: wanted mesh axes of AxisType.A"):
                operator(first, *args[1:])
        _, args, _ = user_code("delta_rule")
        spread = jax.device_put(args, NamedSharding(axes, P("a")))
        rows = {"in_specs": P("a"), "out_specs": P("a")}
        output = jax.shard_map(lambda *args: delta_rule(*args).output, **rows)(*spread)
    assert_close("output", output, delta_rule(*args).output, 1e-13)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("delta_rule", marks=pytest.mark.slow),
        "pieces",
        "gated_linear_attention",
        "short_conv",
    ],
)
def test_explicit_axes_over_a_mesh(x64, name):
    """As `jax.make_mesh` makes them by itself; arrays lie where they like."""
    axes = jax.make_mesh((2,), ("a",), (AxisType.Explicit,), devices=jax.devices()[:2])
    operator, args, _ = user_code("delta_rule" if name == "pieces" else name)
    ids = None if name == "short_conv" else random_segments(*args[0].shape[:2], 8)
    many = {
        "gated_linear_attention": gated_linear_attention_sharded,
        "short_conv": short_conv_sharded,
    }.get(name, delta_rule_sharded)
    where = {"sequence": "a"} if name == "pieces" else {"rows": ("a",)}

    def gradients(operator, *args, **options):
        def loss(*args):
            output = operator(*args, segment_ids=ids, **options)
            return jnp.sum(jnp.sin(output if name == "short_conv" else output[0]))

        return jax.grad(loss, argnums=range(len(args)))(*args)

    wanted = jax.jit(functools.partial(gradients, operator))(*args)
    with jax.set_mesh(axes):
        first = jax.device_put(args[0], NamedSharding(axes, P("a")))
        run = jax.jit(functools.partial(gradients, many, mesh=axes, **where))
        got = run(first, *args[1:])
    for i, (x, y) in enumerate(zip(got, wanted, strict=True)):
        assert_close(str(i), x, y, 1e-12)
