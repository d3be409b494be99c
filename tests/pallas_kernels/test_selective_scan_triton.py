# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The selective scan's Triton kernels against the recurrence in float64: interpreted, on a GPU."""

import jax
import jax.numpy as jnp
import pytest

from pallas_kernels import selective_scan
from pallas_kernels._common import dispatch, triton_device
from pallas_kernels._common.segments import number_segments
from pallas_kernels.selective_scan import api
from tests.helpers import triton_interpreter
from tests.helpers.compare import equal_bits
from tests.helpers.operators import outputs_and_gradients, random_segments
from tests.helpers.selective_scan import check_scan, make_args
from tests.helpers.triton_lowering import check_lowers, needs_jax_triton

needs_triton = pytest.mark.skipif(
    not triton_device.installed(), reason="needs jax-triton and Triton"
)
# Boundaries where a block of eight tokens starts, inside one, two in a row, before the last token.
IDS = jnp.searchsorted(jnp.asarray((3, 8, 12, 13, 19)), jnp.arange(20), side="right")


@pytest.fixture(scope="module")
def interpreted():
    """triton_vjp, its kernels run by Triton's interpreter."""
    name = "pallas_kernels.selective_scan.triton_vjp"
    with triton_interpreter.interpreted(name) as module:
        yield module


def kernels(module):
    def run(*args):
        *inputs, ids = args
        segments = None if ids is None else number_segments(ids)
        return module.selective_scan_triton(*inputs, segments, capability=80)

    return run


@needs_triton
@pytest.mark.parametrize(
    ("length", "sizes", "dtype", "segments"),
    [
        pytest.param(11, (1, 40, 4), "float32", False, id="padded"),
        pytest.param(20, (2, 6, 16), "bfloat16", True, id="segments"),
        pytest.param(9, (1, 17, 32), "float16", False, id="more_states", marks=pytest.mark.slow),
    ],
)
def test_interpreted(interpreted, x64, length, sizes, dtype, segments):
    ids = jnp.stack([IDS, jnp.zeros_like(IDS)]) if segments else None
    check_scan(kernels(interpreted), make_args(length, dtype, sizes), ids)


@needs_triton
@pytest.mark.parametrize("segments", [False, True])
def test_pieces(interpreted, monkeypatch, x64, segments):
    """Rows cut in four; with segments every piece of one row has a boundary, none of the other."""
    monkeypatch.setattr(interpreted.triton_support, "SHORTEST_PIECE", 5)
    assert interpreted.triton_support.pieces(2, 20, 6, 16) == 4
    ids = jnp.stack([IDS, jnp.zeros_like(IDS)]) if segments else None
    check_scan(kernels(interpreted), make_args(20, "float32", (2, 6, 4)), ids)


def test_rows_are_cut_where_programs_are_few():
    pieces = api.triton_support.pieces
    assert pieces(64, 2048, 2048, 16) == 1
    assert pieces(8, 4096, 2048, 16) == 2
    assert pieces(1, 4096, 2048, 16) == 16
    assert pieces(1, 4095, 2048, 16) == 1  # odd
    assert pieces(1, 512, 64, 16) == 4  # pieces would be too short


@needs_triton
@pytest.mark.parametrize(
    ("kernel", "result"), [("forward_kernel", 1), ("forward_kernel", 0), ("backward_kernel", 4)]
)
def test_what_a_kernel_hands_on_matters(interpreted, monkeypatch, x64, kernel, result):
    """With any of it lost the comparison fails."""
    triton_interpreter.lose(interpreted, monkeypatch, kernel, result)
    with pytest.raises(AssertionError, match="RMS ratio"):
        check_scan(kernels(interpreted), make_args(9, "float32", (1, 4, 4)))


@needs_triton
def test_vmap_brings_an_a_of_its_own(interpreted):
    """The same bits as one after the other; b is not mapped."""
    models = [make_args(3, "float32", (2, 4, 4)), make_args(3, "float32", (2, 4, 4))]
    models[1] = (*(x * 0.5 for x in models[1][:3]), models[0][3], *models[1][4:])

    def gradients(*args):
        outputs, vjp = jax.vjp(lambda *args: kernels(interpreted)(*args, None), *args)
        return outputs, vjp(jax.tree.map(jnp.ones_like, outputs))

    stacked = [jnp.stack(x) for x in zip(*models, strict=True)]
    stacked[3] = models[0][3]
    mapped = jax.vmap(gradients, in_axes=(0, 0, 0, None, 0, 0))(*stacked)
    for i, args in enumerate(models):
        assert equal_bits(jax.tree.map(lambda x, i=i: x[i], mapped), gradients(*args))


@needs_jax_triton
@pytest.mark.slow
@pytest.mark.parametrize(("length", "calls"), [(7, 3), (256, 5)])
def test_lowers_for_cuda(length, calls):
    """Five kernels where rows are cut."""
    from pallas_kernels.selective_scan.triton_vjp import selective_scan_triton

    args = jax.eval_shape(lambda: make_args(length, "bfloat16", (1, 40, 16)))
    ids = jnp.zeros((1, length), jnp.int32)
    check_lowers(lambda *args: selective_scan_triton(*args, ids, capability=90), args, calls)


def reason(capability, monkeypatch, dtype="float32", states=16):
    """What `unsupported` says on a GPU of `capability`, with jax-triton installed."""
    monkeypatch.setattr(triton_device, "capability", lambda: capability)
    args = jax.eval_shape(lambda: make_args(5, dtype, (1, 3, states)))
    return api.triton_support.unsupported(*args, None, chunk_size=32)


@pytest.mark.parametrize(
    ("capability", "options", "wanted"),
    [
        (None, {}, "compute capability 8.0, 8.6, 8.9, 9.0"),
        (86, {"dtype": "float64"}, "got float64"),
        (86, {"states": 65}, "N <= 64, got 65"),
    ],
)
def test_refusals(monkeypatch, x64, capability, options, wanted):
    monkeypatch.setattr(triton_device, "installed", lambda: True)
    assert wanted in reason(capability, monkeypatch, **options)


def test_chosen_where_it_runs(monkeypatch):
    """On every GPU that it takes, if jax-triton is there."""
    args = jax.eval_shape(lambda: make_args(5, "bfloat16", (1, 3, 64)))

    def choose(capability, installed=True):
        monkeypatch.setattr(triton_device, "capability", lambda: capability)
        monkeypatch.setattr(triton_device, "installed", lambda: installed)
        options = {"chunk_size": 32}
        return dispatch.choose("test", api.IMPLEMENTATIONS, None, *args, None, **options).name

    assert choose(80) == choose(90) == "triton"
    assert choose(None) == choose(90, installed=False) == "xla"


def on_gpu(*args):
    *inputs, state, ids = args
    return selective_scan(*inputs, initial_state=state, segment_ids=ids, implementation="triton")


@pytest.mark.gpu
@needs_triton
@pytest.mark.parametrize(
    ("length", "sizes"),
    [
        pytest.param(300, (2, 256, 16), id="whole"),
        pytest.param(77, (3, 50, 16), id="padded_channels"),
        pytest.param(100, (2, 40, 5), id="padded_states"),
        pytest.param(130, (1, 64, 32), id="more_states"),
        pytest.param(65, (1, 64, 64), id="most_states"),
        pytest.param(1, (2, 64, 16), id="one_token"),
        pytest.param(1024, (2, 64, 16), id="pieces"),
    ],
)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_on_a_gpu(x64, length, sizes, dtype):
    check_scan(on_gpu, make_args(length, dtype, sizes))


@pytest.mark.gpu
@needs_triton
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_segments_on_a_gpu(x64, dtype):
    check_scan(on_gpu, make_args(270, dtype, (3, 72, 16)), random_segments(3, 270, 40))


@pytest.mark.gpu
@needs_triton
def test_same_bits_on_a_gpu():
    args = make_args(300, "bfloat16", (2, 256, 16))
    cotangents = (jnp.cos(args[0]), jnp.cos(args[-1]))
    runs = [outputs_and_gradients(on_gpu, args, cotangents, None) for _ in range(3)]
    assert equal_bits(runs[0], runs[1]) and equal_bits(runs[0], runs[2])
