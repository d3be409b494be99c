# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""All layers of one token in one launch: how weights are packed, and the kernel in Mosaic's
interpreter against the definitions in float64. test_decoding_gpu.py runs it.

The interpreter runs the kernel's copies, barriers, meetings and arithmetic, not its layouts: that
they lower is a test of its own. What nobody has written is not a number there.
"""

import functools
import itertools
import re
import types

import jax
import jax.experimental.pallas as pl
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh

from experiments.benchmarks import aot
from pallas_kernels.decoding import delta_net_layers as operator
from pallas_kernels.decoding import kernel_layers, layers_plan
from tests.helpers import decoding, mosaic_interpreter
from tests.helpers.compare import BOUNDS, assert_close, rms_ratio
from tests.helpers.delta_net_layers import W, defined, layers

LAYERS, HEADS, HIDDEN = 2, 2, 512
WIDTH = HEADS * layers_plan.HEAD
H200 = AbstractMesh((), (), abstract_device=AbstractDevice("NVIDIA H200", 132, "gpu"))


@pytest.mark.parametrize(
    ("heads", "hidden", "programs", "warpgroups"), [(4, 512, 13, 4), (4, 768, 7, 2), (2, 256, 2, 2)]
)
def test_the_stream_holds_every_product(heads, hidden, programs, warpgroups):
    """What the programs' warpgroups get from their tiles adds up to the products."""
    how = layers_plan.plan(heads, hidden, programs, warpgroups)
    generator, width = np.random.default_rng(0), how.width
    shapes = ((3 * width + heads, width), (width, width), (2 * hidden, width), (width, hidden))
    matrices = layers_plan.Weights(
        *(jnp.asarray(generator.standard_normal(shape, np.float32)) for shape in shapes)
    )
    stream = np.asarray(jax.jit(functools.partial(layers_plan.pack, how))(matrices))
    stream = stream.reshape(programs, how.lines, layers_plan.TILE)
    for product, weight, name in zip(
        how.products, matrices, layers_plan.Weights._fields, strict=True
    ):
        u = generator.standard_normal(product.columns)
        parts = u.reshape(how.warpgroups, product.steps, product.tiles, layers_plan.TILE)
        lines = stream[:, product.start :][:, : product.lines * how.warpgroups * product.steps]
        sizes = (programs, product.steps, how.warpgroups, product.tiles, product.rows, -1)
        got = np.einsum("gswtrc,wstc->gr", lines.reshape(sizes), parts, optimize=True).ravel()
        wanted = np.asarray(weight, np.float64) @ u
        if name == "gate_up":
            wanted = wanted.reshape(2, -1).T.ravel()
        assert_close(name, got[: wanted.size], wanted, 1e-6)
        assert not got[wanted.size :].any()
    assert how.lines == product.start + product.lines * how.warpgroups * product.steps


@pytest.mark.parametrize("programs", [64, 78, 132])
def test_every_number_has_a_program(programs):
    """Whether or not numbers divide: rows, and values of heads' states."""
    for heads, hidden in itertools.product(range(1, programs + 1), (256, 5632, 11264)):
        how = layers_plan.plan(heads, hidden, programs)
        wanted = (3 * how.width + heads, how.width, 2 * hidden, how.width)
        for product, rows in zip(how.products, wanted, strict=True):
            assert product.rows % 8 == 0
            assert rows <= programs * product.rows < rows + 8 * programs
        assert layers_plan.HEAD % how.values == 0
        assert heads * (layers_plan.HEAD // how.values) <= programs


def run_interpreted(weights, state, x, programs=2):
    """(x of every token, state after the last), how many tokens' launches had a race."""
    how = layers_plan.plan(HEADS, HIDDEN, programs)
    packed = operator.pack_layers(weights, how)
    with mosaic_interpreter.interpreted(x.dtype):
        token = jax.jit(functools.partial(operator.delta_net_layers, how=how, beta_scale=2.0))
        outputs, races = [], 0
        for one in x:
            y, state = jax.block_until_ready(token(one[None], packed, state))
            outputs.append(y[0])
            races += mosaic_interpreter.raced()
    return (jnp.stack(outputs), *state), races


def test_tokens_in_the_interpreter():
    inputs = layers(HEADS, HIDDEN, jnp.float32)
    got, races = run_interpreted(*inputs)
    assert not races
    for name, x, y in zip(("x", "tails", "memory"), got, defined(*inputs), strict=True):
        assert_close(name, x, y, BOUNDS["float32"])


@pytest.mark.slow
@pytest.mark.parametrize("programs", [2, 9])
def test_in_16_bits(programs):
    """Of nine, the last has no rows of x1."""
    inputs = layers(HEADS, HIDDEN, jnp.bfloat16)
    got, races = run_interpreted(*inputs, programs=programs)
    assert not races
    for name, x, y in zip(("x", "tails", "memory"), got, defined(*inputs), strict=True):
        assert_close(name, x, y, BOUNDS["bfloat16"])


@pytest.mark.slow
@pytest.mark.parametrize("left_out", range(1, 6))
def test_every_meeting_matters(left_out, monkeypatch):
    """Without it somebody may read before somebody else has written."""
    monkeypatch.setattr(mosaic_interpreter.ClusterMeeting, "left_out", left_out)
    weights, state, x = layers(HEADS, HIDDEN, jnp.float32)
    assert run_interpreted(weights, state, x[:1])[1]


@pytest.mark.slow
def test_what_is_read_too_late_is_found(monkeypatch):
    """The convolutions' inputs are kept after a layer's last meeting: nobody waits for that before
    z is written over."""
    layer, keep = kernel_layers._layer, kernel_layers._keep_inputs

    def late(program, meeting, old, new, number, carry, **options):
        carry = layer(program, meeting, old, new, number, carry, **options)
        pl.when(program.warpgroup == 1)(lambda: keep(program, old, new, number))
        return carry

    monkeypatch.setattr(kernel_layers, "_layer", late)
    monkeypatch.setattr(kernel_layers, "_keep_inputs", lambda *args: None)
    weights, state, x = layers(HEADS, HIDDEN, jnp.float32)
    assert run_interpreted(weights, state, x[:1])[1]


@pytest.mark.parametrize("name", decoding.WRONG_STEPS)
def test_a_wrong_layer_is_told_apart(name):
    weights, state, x = layers(HEADS, HIDDEN, jnp.float32)
    wrong, right = (defined(weights, state, x, wrong=w)[0] for w in (name, None))
    assert rms_ratio(wrong, right) > 1e-2


def test_lowers_for_cuda():
    run, (x, packed, state) = aot.one_token(16, 5632, "bfloat16")
    with jax.sharding.use_abstract_mesh(H200):
        traced = jax.jit(run).trace(x, packed, state)
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
    # The counter, zeros of this launch alone, is all that is written where it was read.
    operands = re.search(r"custom_call @mosaic_gpu\w*\(([^)]*)\)", text).group(1).split(", ")
    (written_over,) = re.findall(r"operand_index = (\d+)", text)
    zeros = r"%(\w+) = stablehlo.constant dense<0> : tensor<i32>\s+%(\w+) = \S+ %\1, dims = \[\]"
    assert operands[int(written_over)] == f"%{re.search(zeros, text).group(2)}"
    y, new = traced.out_info
    assert (y.shape, y.dtype) == (x.shape, x.dtype)
    assert [(a.shape, a.dtype) for a in new] == [(a.shape, a.dtype) for a in state]


SUPPORTED = {
    "width": 2048,
    "heads": 16,
    "key_size": 128,
    "value_size": 128,
    "hidden": 5632,
    "taps": 4,
    "dtype": "bfloat16",
}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"width": 1024, "heads": 8, "hidden": 2816}, None),
        ({"dtype": "float32"}, "takes bfloat16 and float16, got float32"),
        ({"key_size": 64}, "heads of K = V = 128 that make up the width, got 16 of 64 and 128"),
        ({"width": 4096}, "that make up the width, got 16 of 128 and 128 for 4096"),
        ({"width": 2560, "heads": 20}, "a multiple of 8 heads, at most 132, got 20"),
        ({"hidden": 5600}, "a multiple of 256 up to 14336, got 5600"),
        ({"taps": 1}, "at least 2 taps, got 1"),
        ({"width": 13312, "heads": 104, "hidden": 13312}, "192 rows of a matrix"),
    ],
)
def test_what_the_kernel_takes(changes, reason, monkeypatch):
    device = types.SimpleNamespace(platform="gpu", compute_capability="9.0", core_count=132)
    monkeypatch.setattr(jax, "devices", lambda: [device])
    found = operator.unsupported(**(SUPPORTED | changes))
    assert found is None if reason is None else reason in found


def test_a_head_needs_a_program():
    with pytest.raises(ValueError, match="^programs: wanted at least one a head, 16, got 8"):
        layers_plan.plan(16, 5632, 8)


def test_it_needs_a_hopper_gpu():
    assert "needs a Hopper GPU" in operator.unsupported(**SUPPORTED)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": jnp.zeros((2, WIDTH))}, "^x: wanted"),
        ({"tails": jnp.zeros((LAYERS, W, 3 * WIDTH))}, "^tails: wanted"),
        ({"memory": jnp.zeros((LAYERS, HEADS, 64, 64))}, "^memory: wanted"),
        ({"stream": jnp.zeros((64, 64))}, "^stream: wanted"),
    ],
)
def test_impossible_arguments_are_refused(changes, message):
    weights, state, x = layers(HEADS, HIDDEN, jnp.float32)
    how = layers_plan.plan(HEADS, HIDDEN, 2)
    packed = operator.pack_layers(weights, how)
    x = changes.pop("x", x[:1])
    for fields in (packed, state):
        fields = {k: changes.pop(k) for k in list(changes) if hasattr(fields, k)}
        packed = packed._replace(**fields) if "stream" in fields else packed
        state = state if "stream" in fields else state._replace(**fields)
    with pytest.raises(ValueError, match=message):
        operator.delta_net_layers(x, packed, state, how=how)
