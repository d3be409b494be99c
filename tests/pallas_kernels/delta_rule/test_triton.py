# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The Triton kernels without a GPU: interpreted against the definition.

Skipped where Triton is not installed; `make install GPU=1` brings it. They are lowered in
test_kernel_lowering.py and run on a GPU in test_kernel_gpu.py.
"""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType

from pallas_kernels._common import dispatch, triton_device
from pallas_kernels._common.segments import number_segments
from pallas_kernels.delta_rule import api, triton_support
from pallas_kernels.delta_rule.reference import delta_rule_reference
from pallas_kernels.delta_rule.sharded import delta_rule_sharded
from pallas_kernels.delta_rule.workloads import make_inputs
from tests.helpers import triton_interpreter
from tests.helpers.compare import BOUNDS, assert_close
from tests.helpers.operators import check_operator, random_state

needs_triton = pytest.mark.skipif(
    not triton_device.installed(), reason="needs jax-triton and Triton"
)
NAMES = ("q", "k", "v", "beta", "initial_state")


@pytest.fixture(scope="module")
def interpreted():
    """triton_vjp, its kernels run by Triton's interpreter."""
    with triton_interpreter.interpreted() as module:
        yield module


def arguments(batch, length, heads, key_size, value_size, dtype, **options):
    sizes = (batch, length, heads, key_size, value_size)
    state = random_state(batch, heads, key_size, value_size, dtype)
    return (*make_inputs(jax.random.key(length), *sizes, dtype, **options), state)


def calling(function, **options):
    """`function` as check_operator calls it."""

    def run(*args):
        *inputs, ids = args
        segments = None if ids is None else number_segments(ids)
        return function(*inputs, segments, scale=0.125, **options)

    return run


def kernels(module, **options):
    return calling(module.delta_rule_triton, chunk_size=64, capability=80, **options)


definition = calling(delta_rule_reference)


@needs_triton
@pytest.mark.parametrize(
    ("shape", "dtype", "residuals"),
    [
        pytest.param((1, 33, 1, 48, 56), "float32", "recompute", id="padded"),
        pytest.param((1, 70, 1, 64, 64), "bfloat16", "save", id="saved"),
        pytest.param(
            (1, 65, 1, 128, 64), "float16", "recompute", id="wide_keys", marks=pytest.mark.slow
        ),
        pytest.param((1, 3, 1, 64, 64), "bfloat16", "recompute", id="few_tokens"),
    ],
)
def test_values_and_gradients(interpreted, x64, shape, dtype, residuals):
    args = arguments(*shape, dtype, beta_range=(0.0, 2.0))
    check_operator(kernels(interpreted, residuals=residuals), definition, NAMES, args)


# Boundaries on a chunk's edge, inside one, several in one, and before the last token.
BOUNDARIES = (5, 32, 34, 40, 43)


@needs_triton
def test_segments(interpreted, x64):
    args = arguments(1, 44, 1, 64, 64, "float32")
    ids = jnp.searchsorted(jnp.asarray(BOUNDARIES), jnp.arange(44), side="right")[None]
    check_operator(kernels(interpreted), definition, NAMES, args, ids)


@needs_triton
def test_segments_of_few_tokens(interpreted, x64):
    args = arguments(2, 5, 1, 64, 64, "float32")
    ids = jnp.asarray([[0, 0, 1, 1, 0], [2, 2, 2, 2, 2]])
    got = kernels(interpreted)(*args, ids)
    for x, y in zip(got, definition(*(x.astype(jnp.float64) for x in args), ids), strict=True):
        assert_close("few tokens", x, y, BOUNDS["float32"])


@needs_triton
def test_recurrence_of_many_tokens(interpreted):
    args = arguments(1, 20, 1, 64, 64, "float32")
    got = kernels(interpreted, recurrent=True)(*args, None)
    for x, y in zip(got, definition(*args, None), strict=True):
        assert_close("recurrence", x, y, BOUNDS["float32"])


@needs_triton
@pytest.mark.slow
def test_outputs_on_the_way_are_the_same(interpreted, monkeypatch):
    """Many heads' outputs come from the serial pass, few heads' from a kernel of their own."""
    args = arguments(1, 70, 1, 64, 64, "bfloat16")
    support = interpreted.triton_support
    results = []
    for many in (True, False):
        monkeypatch.setattr(support, "outputs_on_the_way", lambda *sizes, many=many: many)
        results.append(kernels(interpreted)(*args, None))
    for x, y in zip(*results, strict=True):
        assert (x == y).all()


@needs_triton
@pytest.mark.slow
def test_vmap_joins_the_batch(interpreted):
    """The same bits; k is not mapped."""
    args = arguments(2, 3, 1, 64, 64, "bfloat16")

    def gradients(*args):
        outputs, vjp = jax.vjp(lambda *args: kernels(interpreted)(*args, None), *args)
        return outputs, vjp(jax.tree.map(jnp.ones_like, outputs))

    q, k, *rest = (x[:, None] for x in args)
    mapped = jax.vmap(gradients, in_axes=(0, None, 0, 0, 0))(q, k[0], *rest)
    whole = gradients(args[0], jnp.concatenate([k[0]] * 2), *args[2:])
    for x, y in zip(jax.tree.leaves(mapped), jax.tree.leaves(whole), strict=True):
        assert (x.reshape(y.shape) == y).all()


@needs_triton
@pytest.mark.parametrize(
    ("kernel", "result"),
    [
        pytest.param("correction_kernel", 0, id="correction"),
        pytest.param("forward_kernel", 2, id="states", marks=pytest.mark.slow),
        pytest.param("reverse_kernel", 1, id="cotangents", marks=pytest.mark.slow),
    ],
)
def test_what_a_kernel_hands_on_matters(interpreted, monkeypatch, x64, kernel, result):
    """With any of it lost the comparison fails."""
    triton_interpreter.lose(interpreted, monkeypatch, kernel, result)
    args = arguments(1, 35, 1, 64, 64, "float32")
    with pytest.raises(AssertionError, match="RMS ratio"):
        check_operator(kernels(interpreted), definition, NAMES, args)


@needs_triton
@pytest.mark.slow
def test_over_a_mesh(interpreted, monkeypatch, x64):
    """Of one device: the interpreter cannot run for two at a time."""
    run = dispatch.Implementation(
        "triton",
        functools.partial(interpreted.delta_rule_triton, capability=80),
        lambda *args, **options: None,
    )
    monkeypatch.setattr(api, "IMPLEMENTATIONS", (run,))
    mesh = jax.make_mesh((1,), ("b",), (AxisType.Auto,), devices=jax.devices()[:1])

    def sharded(*args):
        *inputs, state, ids = args
        return delta_rule_sharded(
            *inputs,
            mesh=mesh,
            rows=("b",),
            initial_state=state,
            segment_ids=ids,
            scale=0.125,
            implementation="triton",
        )

    args = arguments(1, 40, 1, 64, 64, "float32")
    check_operator(sharded, definition, NAMES, args, jnp.arange(40)[None] // 30)


def reason(capability, monkeypatch, shape=(1, 70, 1, 64, 64), dtype="bfloat16", pieces=None):
    """What `unsupported` says on a GPU of `capability`, with jax-triton installed."""
    monkeypatch.setattr(triton_device, "capability", lambda: capability)
    args = jax.eval_shape(lambda: arguments(*shape, dtype))
    return triton_support.unsupported(
        *args, None, scale=1.0, chunk_size=64, sequence_pieces=pieces, residuals="save"
    )


@pytest.mark.parametrize(
    ("capability", "options", "wanted"),
    [
        (None, {}, "compute capability 8.0, 8.6, 8.9, 9.0"),
        (75, {}, "compute capability 8.0, 8.6, 8.9, 9.0"),
        (86, {"dtype": "float64"}, "got float64"),
        (86, {"shape": (1, 5, 1, 257, 64)}, "K <= 256, got 257"),
        (86, {"shape": (1, 65535 * 64 + 1, 1, 1, 1)}, "T <= 4194240, got 4194241"),
        (86, {"pieces": 2}, "do not cut rows"),
    ],
)
def test_refusals(monkeypatch, x64, capability, options, wanted):
    monkeypatch.setattr(triton_device, "installed", lambda: True)
    assert wanted in reason(capability, monkeypatch, **options)


def test_takes_the_rest(monkeypatch):
    monkeypatch.setattr(triton_device, "installed", lambda: True)
    for capability in triton_device.SHARED_MEMORY:
        for dtype in ("bfloat16", "float16", "float32"):
            assert reason(capability, monkeypatch, (1, 70, 1, 256, 300), dtype) is None


def test_says_what_to_install(monkeypatch):
    monkeypatch.setattr(triton_device, "installed", lambda: False)
    assert triton_device.INSTALL in reason(80, monkeypatch)
    pinned = Path(__file__).parents[3].joinpath("requirements-gpu.txt").read_text().split()
    assert set(triton_device.INSTALL.removeprefix("pip install ").split()) <= set(pinned)


def test_chosen_before_hopper_only(monkeypatch):
    """By itself; and on Hopper if asked for."""
    monkeypatch.setattr(triton_device, "installed", lambda: True)
    args = jax.eval_shape(lambda: arguments(1, 70, 1, 64, 64, "float32"))
    options = {"scale": 1.0, "chunk_size": 64, "sequence_pieces": None, "residuals": "save"}

    def choose(capability, requested=None):
        monkeypatch.setattr(triton_device, "capability", lambda: capability)
        implementations = api.IMPLEMENTATIONS
        return dispatch.choose("test", implementations, requested, *args, None, **options).name

    assert choose(80) == choose(89) == "triton"
    assert choose(90) == choose(None) == "xla"
    assert choose(90, "triton") == "triton"
    with pytest.raises(NotImplementedError, match="compute capability 8.0"):
        choose(None, "triton")
