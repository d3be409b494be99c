# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Linear attention's Triton kernels against the definition in float64: interpreted, on a GPU."""

import functools

import jax
import jax.numpy as jnp
import pytest

from pallas_kernels import gated_linear_attention, linear_attention
from pallas_kernels._common import dispatch, triton_device
from pallas_kernels._common.segments import number_segments
from pallas_kernels.delta_rule.workloads import make_inputs
from pallas_kernels.gated_linear_attention import api
from pallas_kernels.gated_linear_attention.reference import gated_linear_attention_reference
from tests.helpers import triton_interpreter
from tests.helpers.compare import equal_bits
from tests.helpers.operators import (
    calling,
    check_operator,
    log_decays,
    outputs_and_gradients,
    random_segments,
    random_state,
)
from tests.helpers.triton_lowering import check_lowers, needs_jax_triton

needs_triton = pytest.mark.skipif(
    not triton_device.installed(), reason="needs jax-triton and Triton"
)
NAMES = ("q", "k", "v", "g", "initial_state")
DECAYS = ("channel", "head", "none")


@pytest.fixture(scope="module")
def interpreted():
    """triton_vjp, its kernels run by Triton's interpreter."""
    name = "pallas_kernels.gated_linear_attention.triton_vjp"
    with triton_interpreter.interpreted(name) as module:
        yield module


def make_args(shape, dtype, decay):
    """q, k, v, g (unless `decay` is "none") and a state."""
    batch, _, heads, key_size, value_size = shape
    q, k, v, _ = make_inputs(jax.random.key(0), *shape, dtype)
    g = [] if decay == "none" else [log_decays(q.shape[: 4 if decay == "channel" else 3], dtype)]
    return q, k, v, *g, random_state(batch, heads, key_size, value_size, dtype)


def names(args):
    return NAMES if len(args) == 5 else (*NAMES[:3], NAMES[4])


def inner(function, **options):
    """An implementation as check_operator calls it, g missing or [B, T, H] too."""

    def run(q, k, v, *rest):
        *g, state, ids = rest
        g = g[0] if g else None
        g = g[..., None] if g is not None and g.ndim == 3 else g
        segments = None if ids is None else number_segments(ids)
        return function(q, k, v, g, state, segments, scale=0.25, **options)

    return run


def kernels(module):
    return inner(module.gated_linear_attention_triton, chunk_size=64, capability=80)


def define(q, k, v, *rest):
    """The definition; without g with decays of 1."""
    g = jnp.zeros(q.shape[:3], q.dtype) if len(rest) == 2 else rest[0]
    return inner(gated_linear_attention_reference)(q, k, v, g, *rest[-2:])


# On a chunk's edge, inside one, several in one, before the last token.
IDS = jnp.searchsorted(jnp.asarray((5, 32, 34, 40, 43)), jnp.arange(44), side="right")[None]


@needs_triton
@pytest.mark.parametrize(
    ("shape", "dtype", "decay", "segments"),
    [
        pytest.param((1, 44, 1, 64, 64), "float32", "channel", True, id="channel"),
        pytest.param((1, 44, 1, 48, 56), "float32", "head", True, id="head"),
        pytest.param((1, 70, 1, 64, 64), "bfloat16", "channel", False, id="bfloat16"),
        pytest.param((1, 33, 1, 64, 64), "float32", "none", False, id="none"),
        pytest.param((1, 65, 1, 128, 64), "float16", "head", False, id="half"),
        pytest.param(
            (1, 44, 2, 64, 128), "float32", "none", True, id="more", marks=pytest.mark.slow
        ),
    ],
)
def test_interpreted(interpreted, x64, shape, dtype, decay, segments):
    args = make_args(shape, dtype, decay)
    check_operator(kernels(interpreted), define, names(args), args, IDS if segments else None)


@needs_triton
@pytest.mark.parametrize(
    ("kernel", "result"),
    [
        pytest.param("prepare_kernel", 0, id="reads"),
        pytest.param("prepare_kernel", 2, id="scores", marks=pytest.mark.slow),
        pytest.param("pass_kernel", 0, id="states", marks=pytest.mark.slow),
    ],
)
def test_what_a_kernel_hands_on_matters(interpreted, monkeypatch, x64, kernel, result):
    """With any of it lost the comparison fails."""
    triton_interpreter.lose(interpreted, monkeypatch, kernel, result)
    args = make_args((1, 35, 1, 64, 64), "float32", "head")
    with pytest.raises(AssertionError, match="RMS ratio"):
        check_operator(kernels(interpreted), define, NAMES, args)


@needs_triton
@pytest.mark.slow
def test_vmap_joins_the_batch(interpreted):
    """The same bits; g is not mapped."""
    q, k, v, g, state = make_args((2, 3, 1, 64, 64), "bfloat16", "head")

    def gradients(*args):
        outputs, vjp = jax.vjp(lambda *args: kernels(interpreted)(*args, None), *args)
        return outputs, vjp(jax.tree.map(jnp.ones_like, outputs))

    args = (q[:, None], k[:, None], v[:, None], g[:1], state[:, None])
    mapped = jax.vmap(gradients, in_axes=(0, 0, 0, None, 0))(*args)
    whole = gradients(q, k, v, jnp.concatenate([g[:1]] * 2), state)
    for x, y in zip(jax.tree.leaves(mapped), jax.tree.leaves(whole), strict=True):
        assert (x.reshape(y.shape) == y).all()


@needs_jax_triton
@pytest.mark.slow
@pytest.mark.parametrize("decay", DECAYS)
def test_lowers_for_cuda(decay):
    from pallas_kernels.gated_linear_attention.triton_vjp import gated_linear_attention_triton

    run = inner(gated_linear_attention_triton, chunk_size=64, capability=90)
    args = jax.eval_shape(lambda: make_args((1, 70, 1, 48, 80), "bfloat16", decay))
    ids = jnp.zeros((1, 70), jnp.int32)
    check_lowers(lambda *args: run(*args, ids), args, calls=8)


def reason(capability, monkeypatch, shape=(1, 70, 1, 64, 64), dtype="bfloat16"):
    """What `unsupported` says on a GPU of `capability`, with jax-triton installed."""
    monkeypatch.setattr(triton_device, "capability", lambda: capability)
    args = jax.eval_shape(lambda: make_args(shape, dtype, "head"))
    return api.triton_support.unsupported(*args, None, scale=1.0, chunk_size=64)


@pytest.mark.parametrize(
    ("capability", "options", "wanted"),
    [
        (None, {}, "compute capability 8.0, 8.6, 8.9, 9.0"),
        (86, {"dtype": "float64"}, "got float64"),
        (86, {"shape": (1, 5, 1, 257, 64)}, "K <= 256, got 257"),
        (86, {"shape": (1, 65535 * 64 + 1, 1, 1, 1)}, "T <= 4194240, got 4194241"),
    ],
)
def test_refusals(monkeypatch, x64, capability, options, wanted):
    monkeypatch.setattr(triton_device, "installed", lambda: True)
    assert wanted in reason(capability, monkeypatch, **options)


def test_chosen_where_it_runs(monkeypatch):
    """On every GPU that it takes, if jax-triton is there."""
    args = jax.eval_shape(lambda: make_args((1, 5, 1, 256, 300), "float32", "channel"))

    def choose(capability, installed=True):
        monkeypatch.setattr(triton_device, "capability", lambda: capability)
        monkeypatch.setattr(triton_device, "installed", lambda: installed)
        options = {"scale": 1.0, "chunk_size": 64}
        return dispatch.choose("test", api.IMPLEMENTATIONS, None, *args, None, **options).name

    assert choose(80) == choose(90) == "triton"
    assert choose(None) == choose(90, installed=False) == "xla"


def check_on_gpu(shape, dtype, decay, ids=None):
    args = make_args(shape, dtype, decay)
    operator = linear_attention if decay == "none" else gated_linear_attention
    run = functools.partial(calling(operator), implementation="triton")
    scale = shape[3] ** -0.5 / 0.25  # the definition's here

    def wanted(*args):
        output, state = define(*args)
        return scale * output, state

    check_operator(run, wanted, names(args), args, ids)


@pytest.mark.gpu
@needs_triton
@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((2, 200, 2, 128, 256), id="whole"),
        pytest.param((1, 130, 3, 48, 80), id="padded"),
        pytest.param((1, 70, 2, 256, 128), id="wide"),
        pytest.param((1, 1, 2, 64, 64), id="one_token"),
    ],
)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_on_a_gpu(x64, shape, dtype, decay):
    check_on_gpu(shape, dtype, decay)


@pytest.mark.gpu
@needs_triton
@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_segments_on_a_gpu(x64, dtype, decay):
    check_on_gpu((3, 270, 2, 64, 64), dtype, decay, random_segments(3, 270, 40))


@pytest.mark.gpu
@needs_triton
@pytest.mark.parametrize("decay", DECAYS)
def test_same_bits_on_a_gpu(decay):
    args = make_args((2, 200, 2, 128, 256), "bfloat16", decay)
    operator = linear_attention if decay == "none" else gated_linear_attention
    run = functools.partial(calling(operator), implementation="triton")
    cotangents = (args[2], args[-1])
    runs = [outputs_and_gradients(run, args, cotangents, None) for _ in range(3)]
    assert equal_bits(runs[0], runs[1]) and equal_bits(runs[0], runs[2])
