# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The short convolution against its definition in float64; its kernels in Mosaic's interpreter.

The interpreter runs the kernels' copies, barriers and arithmetic, not their layouts: that they
lower is tested here too, and values again on a GPU (test_short_conv_gpu.py).
"""

import functools
import types

import jax
import jax.experimental.pallas.mosaic_gpu as plgpu
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh

from pallas_kernels import short_conv, short_conv_sharded
from pallas_kernels.short_conv import kernel_support
from pallas_kernels.short_conv.kernel_vjp import short_conv_kernels
from tests.helpers.compare import BOUNDS, assert_close
from tests.helpers.mosaic_interpreter import raced

H200 = AbstractMesh((), (), abstract_device=AbstractDevice("NVIDIA H200", 132, "gpu"))
NAMES = ("y", "dx", "dweight")


def make_inputs(batch, length, channels, width, dtype, boundaries=None):
    """(x, weight), dy, segment_ids; a segment starts at each of `boundaries`."""
    keys = jax.random.split(jax.random.key(length), 3)
    x, dy = (jax.random.normal(key, (batch, length, channels), dtype) for key in keys[:2])
    weight = jax.random.normal(keys[2], (width, channels), jnp.float32)
    ids = None
    if boundaries is not None:
        ids = np.searchsorted(boundaries, np.arange(length), side="right") % 2
        ids = jnp.asarray(np.broadcast_to(ids, (batch, length)), jnp.int32)
    return (x, weight), dy, ids


def value_and_gradients(run, args, dy):
    @jax.jit
    def both(args, dy):
        y, vjp = jax.vjp(run, *args)
        return y, *vjp(dy)

    return both(args, dy)


def wanted(args, dy, ids, **options):
    """NumPy's convolution, and autodiff of the same, in float64."""

    def run(x, weight):
        y = 0
        for back in range(min(weight.shape[0], x.shape[1])):
            tap = jnp.pad(x, ((0, 0), (back, 0), (0, 0)))[:, : x.shape[1]]
            if ids is not None:
                starts = np.maximum.accumulate(
                    np.where(np.diff(ids, axis=1, prepend=-1) != 0, np.arange(ids.shape[1]), 0), 1
                )
                inside = np.arange(ids.shape[1]) - starts >= back
                tap = tap * inside[:, :, None]
            y = y + tap * weight[back][None, None]
        if options.get("activation") == "silu":
            y = y * jax.nn.sigmoid(y)
        if size := options.get("norm_size"):
            groups = y.reshape(*y.shape[:2], -1, size)
            norm = jnp.sqrt(jnp.sum(groups**2, axis=-1, keepdims=True) + 1e-6)
            y = (groups / norm).reshape(y.shape)
        return y

    with jax.enable_x64(True):
        ids = None if ids is None else np.asarray(ids)
        wide = jax.tree.map(lambda x: jnp.asarray(np.asarray(x, np.float64)), (args, dy))
        return [np.asarray(x) for x in value_and_gradients(run, *wide)]


def check(run, args, dy, ids, bound, **options):
    got = value_and_gradients(run, args, dy)
    for name, x, reference in zip(NAMES, got, wanted(args, dy, ids, **options), strict=True):
        assert_close(name, x, reference, bound)


SEGMENTS = [1, 4, 6]
ALL = {"activation": "silu", "norm_size": 6}


@pytest.mark.parametrize(
    ("length", "width", "dtype", "boundaries", "options"),
    [
        pytest.param(9, 4, "bfloat16", SEGMENTS, ALL, id="bfloat16"),
        pytest.param(2, 4, "float32", [1], {}, id="shorter_than_the_width"),
        pytest.param(5, 1, "float32", None, {"norm_size": 12}, id="one_tap"),
    ],
)
def test_values_and_gradients(length, width, dtype, boundaries, options):
    args, dy, ids = make_inputs(2, length, 12, width, dtype, boundaries)
    run = functools.partial(short_conv, segment_ids=ids, **options)
    check(run, args, dy, ids, BOUNDS[dtype], **options)


def test_reference():
    args, dy, ids = make_inputs(2, 9, 12, 4, jnp.float32, SEGMENTS)
    y = short_conv(*args, segment_ids=ids, implementation="reference", **ALL)
    assert_close("y", y, wanted(args, dy, ids, **ALL)[0], BOUNDS["float32"])


@pytest.mark.parametrize(
    ("sizes", "dtype", "boundaries", "norm_size"),
    [
        pytest.param((1, 18, 1024, 4), "bfloat16", None, 128, id="ring"),
        pytest.param((1, 14, 1024, 3), "float16", [1, 4, 6], 256, id="segments"),
        pytest.param((1, 18, 1024, 1), "bfloat16", None, 64, id="one_tap"),
    ],
)
def test_kernels_interpreted(sizes, dtype, boundaries, norm_size):
    """Stretches of 16 and 4 tokens, the last one ragged; boundaries at their edges and inside."""
    args, dy, ids = make_inputs(*sizes, dtype, boundaries)
    run = functools.partial(
        short_conv_kernels,
        segments=ids,
        activation="silu",
        norm_size=norm_size,
        norm_eps=1e-6,
        stretch=16 if boundaries is None else 4,
        interpret=plgpu.InterpretGPUParams(detect_races=boundaries is None),
    )
    check(run, args, dy, ids, BOUNDS[dtype], activation="silu", norm_size=norm_size)
    if boundaries is None:
        assert not raced()  # of the last launch: backward
        jax.block_until_ready(run(*args))
        assert not raced()


@pytest.mark.parametrize(
    ("channels", "width", "segmented", "norm_size"),
    [
        pytest.param(2048, 4, False, 128, id="norm"),
        pytest.param(1024, 2, True, None, id="segments"),
        pytest.param(1024, 1, False, 128, id="one_tap"),
    ],
)
def test_kernels_lower_for_cuda(channels, width, segmented, norm_size):
    def array(*shape, dtype=jnp.bfloat16):
        return jax.ShapeDtypeStruct(shape, dtype)

    @jax.jit
    def run(x, weight, segments, dy):
        options = {"activation": "silu", "norm_size": norm_size, "norm_eps": 1e-6}
        y, vjp = jax.vjp(lambda *args: short_conv_kernels(*args, segments, **options), x, weight)
        return y, *vjp(dy)

    x = array(2, 1000, channels)
    segments = array(2, 1000, dtype=jnp.int32) if segmented else None
    with jax.sharding.use_abstract_mesh(H200):
        traced = run.trace(x, array(width, channels, dtype=jnp.float32), segments, x)
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("mosaic_gpu") >= 2
    assert [out.shape for out in traced.out_info] == [x.shape, x.shape, (width, channels)]


@pytest.mark.parametrize(
    ("shape", "width", "norm_size", "dtype", "reason"),
    [
        ((1, 64, 1024), 4, 128, "bfloat16", None),
        ((1, 64, 1024), 4, None, "float32", "bfloat16 and float16"),
        ((1, 64, 1024), 5, None, "bfloat16", "widths in"),
        ((1, 64, 1536), 4, None, "bfloat16", "D a multiple of 1024"),
        ((1, 64, 1024), 4, 32, "bfloat16", "norm_size in"),
        ((1, 15, 1024), 4, None, "bfloat16", "T >= 16"),
    ],
)
def test_what_the_kernels_refuse(monkeypatch, shape, width, norm_size, dtype, reason):
    hopper = types.SimpleNamespace(platform="gpu", compute_capability="9.0")
    monkeypatch.setattr(jax, "devices", lambda: [hopper])
    x, weight = np.zeros(shape, jnp.dtype(dtype)), np.zeros((width, shape[-1]))
    options = {"activation": "silu", "norm_size": norm_size, "norm_eps": 1e-6}
    got = kernel_support.unsupported(x, weight, None, **options)
    assert got is None if reason is None else reason in got


def test_refused_without_a_hopper_gpu():
    if jax.default_backend() != "cpu":
        pytest.skip("this machine has an accelerator")
    x, weight = jnp.ones((1, 16, 64), jnp.bfloat16), jnp.ones((4, 64))
    with pytest.raises(NotImplementedError, match="need a Hopper GPU"):
        short_conv(x, weight, implementation="pallas")
    assert short_conv(x, weight).shape == x.shape  # None chooses another


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"x": jnp.ones((3, 4))}, ValueError, r"^x: wanted 3 axes"),
        ({"weight": jnp.ones((4, 5))}, ValueError, r"^weight: wanted shape"),
        ({"x": jnp.ones((1, 3, 4), jnp.int32)}, TypeError, r"^x: wanted dtype in"),
        ({"activation": "relu"}, ValueError, r"^activation: wanted one of"),
        ({"activation": ["silu"]}, ValueError, r"^activation: wanted one of"),
        ({"norm_size": 3}, ValueError, r"^norm_size: wanted a divisor of D = 4"),
        ({"norm_size": 2.0}, ValueError, r"^norm_size: wanted an integer >= 1, got 2.0"),
        ({"norm_eps": "1e-6"}, TypeError, r"^norm_eps: wanted a number"),
        ({"norm_eps": None}, TypeError, r"^norm_eps: wanted a number"),
        (
            {"x": jnp.ones((1, 0, 4)), "implementation": "cuda"},
            ValueError,
            r"^implementation: wanted one of",
        ),
        ({"segment_ids": jnp.zeros((1, 3))}, TypeError, r"^segment_ids: wanted an integer"),
    ],
)
def test_bad_arguments(changed, error, message):
    arguments = {"x": jnp.ones((1, 3, 4)), "weight": jnp.ones((4, 4))} | changed
    # jaxtyping, which looks first in tests, is not what is tested
    plain = getattr(short_conv, "__wrapped__", short_conv)
    with pytest.raises(error, match=message):
        plain(**arguments)


@pytest.mark.parametrize("sequence", [1, 2])
def test_on_a_mesh(sequence):
    mesh = jax.make_mesh(
        (2, sequence, 2),
        ("data", "sequence", "tensor"),
        (jax.sharding.AxisType.Auto,) * 3,
        devices=jax.devices()[: 4 * sequence],
    )
    args, dy, ids = make_inputs(2, 12, 12, 4, jnp.float32, [3, 7])
    options = {"activation": "silu", "norm_size": 3}
    axes = {"mesh": mesh, "rows": ["data"], "sequence": "sequence", "heads": ["tensor"]}
    run = functools.partial(short_conv_sharded, segment_ids=ids, **axes, **options)
    check(run, args, dy, ids, BOUNDS["float32"], **options)


def test_nothing_to_do():
    x = jnp.ones((2, 0, 64), jnp.bfloat16)
    assert short_conv(x, jnp.ones((4, 64))).shape == x.shape
