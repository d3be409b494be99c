# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The operators of one token against their definitions in float64: XLA's form, and the Triton
kernels interpreted (skipped where Triton is not installed). test_decoding_gpu.py runs the kernels.
"""

import functools

import jax
import jax.numpy as jnp
import pytest

from pallas_kernels import delta_net_step, row_product
from pallas_kernels._common import dispatch, triton_device
from pallas_kernels.decoding import delta_net_step as step_module
from pallas_kernels.decoding import row_product as product_module
from tests.helpers import decoding
from tests.helpers.compare import BOUNDS, assert_close, rms_ratio

needs_triton = pytest.mark.skipif(
    not triton_device.installed(), reason="needs jax-triton and Triton"
)


@pytest.fixture(scope="module")
def interpreted():
    """triton_calls, its kernels run by Triton's interpreter."""
    from tests.helpers import triton_interpreter

    with triton_interpreter.interpreted("pallas_kernels.decoding.triton_calls") as module:
        yield module


def product_in_triton(module, x, weight, **options):
    """The kernel's function, called as the operator is."""
    names = ("norm_scale", "residual")
    arrays = [options.pop(name, None) for name in names]
    options = {"norm_eps": 1e-6, "gated": False, "capability": 80} | options
    return module.row_product_triton(x, weight, *arrays, **options)


def step_in_triton(module, *args, columns, **options):
    options = {"beta_scale": 1.0, "norm_eps": 1e-6, "capability": 80} | options
    columns = step_module.Columns(*columns)
    return step_module.DeltaNetStep(
        *module.delta_net_step_triton(*args, columns=columns, **options)
    )


PRODUCTS = [
    pytest.param({}, id="plain"),
    pytest.param({"norm": True, "gated": True}, id="normed-gated"),
    pytest.param({"norm": True, "residual": True, "gated": True}, id="all"),
]


@pytest.mark.parametrize("options", PRODUCTS)
@pytest.mark.parametrize(("rows", "dtype"), [(1, "float32"), (3, "float32"), (1, "bfloat16")])
def test_product(rows, dtype, options):
    args, options = decoding.product_arguments(rows, 40, 24, dtype, **options)
    got = row_product(*args, implementation="xla", **options)
    assert got.dtype == dtype
    assert_close("product", got, decoding.product(*args, **options), BOUNDS[dtype])


@needs_triton
@pytest.mark.parametrize(
    ("shape", "dtype", "options"),
    [
        pytest.param((40, 10), "float32", {"residual": True}, id="padded"),
        pytest.param((512, 16), "bfloat16", {"norm": True, "gated": True}, id="whole"),
        pytest.param((600, 12), "float16", {"norm": True}, id="several-blocks"),
    ],
)
def test_product_in_triton(interpreted, shape, dtype, options):
    args, options = decoding.product_arguments(1, *shape, dtype, **options)
    got = product_in_triton(interpreted, *args, **options)
    assert_close("product", got, decoding.product(*args, **options), BOUNDS[dtype])


@pytest.mark.parametrize("name", decoding.WRONG_PRODUCTS)
def test_a_wrong_product_is_told_apart(name):
    args, options = decoding.product_arguments(2, 40, 24, "float32", True, True, True)
    wrong = decoding.product(*args, **options, wrong=name)
    got = row_product(*args, implementation="xla", **options)
    assert rms_ratio(got, wrong) > 1e-2


STEPS = [
    pytest.param((2, 2, 16, 24), 4, "float32", id="more-values"),
    pytest.param((1, 3, 16, 8), 2, "bfloat16", id="two-taps"),
]


@pytest.mark.parametrize(("sizes", "width", "dtype"), STEPS)
def test_steps(sizes, width, dtype):
    """Seven tokens one by one against convolution and recurrence over all of them."""
    sequence = decoding.step_sequence(7, *sizes, width, dtype)
    run = jax.jit(functools.partial(delta_net_step, implementation="xla", **sequence.options))
    decoding.check_steps(run, sequence, BOUNDS[dtype])


@needs_triton
@pytest.mark.parametrize(
    ("sizes", "width", "dtype"),
    [
        pytest.param((2, 2, 32, 64), 4, "float32", id="more-values"),
        pytest.param((1, 1, 64, 32), 2, "bfloat16", id="two-taps"),
    ],
)
def test_steps_in_triton(interpreted, sizes, width, dtype):
    sequence = decoding.step_sequence(4, *sizes, width, dtype)
    run = functools.partial(step_in_triton, interpreted, **sequence.options)
    decoding.check_steps(run, sequence, BOUNDS[dtype])


@pytest.mark.parametrize("name", decoding.WRONG_STEPS)
def test_a_wrong_step_is_told_apart(name):
    sequence = decoding.step_sequence(7, 2, 2, 16, 24, 4, "float32")
    right, _ = decoding.steps(sequence)
    wrong, _ = decoding.steps(sequence, wrong=name)
    assert rms_ratio(wrong, right) > 1e-2


def product_reason(rows, dtype):
    args, _ = jax.eval_shape(lambda: decoding.product_arguments(rows, 40, 24, dtype))
    (kernel, _) = product_module.IMPLEMENTATIONS
    return kernel.unsupported(*args, None, None, norm_eps=1e-6, gated=False)


def step_reason(key_size=128, width=4):
    sequence = decoding.step_sequence(1, 1, 1, key_size, 128, width, "bfloat16")
    (kernel, _) = step_module.IMPLEMENTATIONS
    return kernel.unsupported(*sequence.arguments(0), **sequence.options)


def test_the_kernels_say_what_they_do_not_take(monkeypatch, x64):
    monkeypatch.setattr(triton_device, "installed", lambda: True)
    monkeypatch.setattr(triton_device, "capability", lambda: 90)
    assert product_reason(1, "bfloat16") is None and step_reason() is None
    assert "one row, got 2" in product_reason(2, "bfloat16")
    assert "got float64" in product_reason(1, "float64")
    assert "K in (32, 64, 128) and V in (32, 64, 128, 256), got (1, 1, 48, 128)" in step_reason(
        key_size=48
    )
    monkeypatch.setattr(triton_device, "capability", lambda: 75)
    assert "compute capability" in product_reason(1, "bfloat16")
    monkeypatch.setattr(triton_device, "capability", lambda: 90)
    monkeypatch.setattr(triton_device, "installed", lambda: False)
    assert triton_device.INSTALL in step_reason()


def test_the_kernels_are_chosen_where_they_run(monkeypatch):
    monkeypatch.setattr(triton_device, "installed", lambda: True)
    args, _ = decoding.product_arguments(1, 40, 24, "float32")
    options = {"norm_eps": 1e-6, "gated": False}
    for capability, wanted in ((90, "triton"), (80, "triton"), (None, "xla")):
        monkeypatch.setattr(triton_device, "capability", lambda c=capability: c)
        implementations = product_module.IMPLEMENTATIONS
        args_ = (*args, None, None)
        assert dispatch.choose("test", implementations, None, *args_, **options).name == wanted


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"x": jnp.zeros(40)}, ValueError, r"^x: wanted 2 axes \[B, D\], got shape \(40,\)"),
        ({"weight": jnp.zeros((24, 39))}, ValueError, "^weight: wanted shape"),
        ({"weight": jnp.zeros((24, 40), jnp.bfloat16)}, TypeError, "^weight: wanted x's dtype"),
        (
            {"weight": jnp.zeros((23, 40)), "gated": True},
            ValueError,
            "^weight: wanted an even number of rows with gated, got 23",
        ),
        ({"norm_scale": jnp.zeros(24)}, ValueError, "^norm_scale: wanted shape"),
        ({"residual": jnp.zeros((1, 25))}, ValueError, "^residual: wanted shape"),
        ({"norm_eps": "1e-6"}, TypeError, "^norm_eps: wanted a number"),
        ({"implementation": "fast"}, ValueError, "^implementation: wanted one of"),
        ({"implementation": "triton"}, NotImplementedError, "need an NVIDIA GPU"),
    ],
)
def test_products_refuse(no_jaxtyping, changes, error, message):
    args = {"x": jnp.zeros((1, 40)), "weight": jnp.zeros((24, 40))} | changes
    with pytest.raises(error, match=message):
        row_product(args.pop("x"), args.pop("weight"), **args)


@pytest.mark.parametrize(
    ("position", "value", "error", "message"),
    [
        (0, jnp.zeros((2, 99)), ValueError, "^state: wanted shape"),
        (0, jnp.zeros((1, 64), jnp.int32), TypeError, "^projected: wanted dtype"),
        (2, (jnp.zeros((1, 16)),) * 3, ValueError, "^taps: wanted at least 2, got 1"),
        (2, (jnp.zeros((3, 17)),) * 3, ValueError, "^taps of q: wanted shape"),
        (1, (jnp.zeros((1, 2, 16)),) * 3, ValueError, "^tail of q: wanted shape"),
        (3, jnp.zeros(7), ValueError, "^norm_scale: wanted shape"),
        ("columns", (0, 16, 60, 48), ValueError, r"^columns: wanted v in 0..\d+ of \d+, got 60"),
        ("scale", "2", TypeError, "^scale: wanted a number"),
        ("beta_scale", None, TypeError, "^beta_scale: wanted a number"),
    ],
)
def test_steps_refuse(no_jaxtyping, position, value, error, message):
    sequence = decoding.step_sequence(1, 1, 1, 16, 16, 4, "float32")
    args, options = list(sequence.arguments(0)), dict(sequence.options)
    if isinstance(position, str):
        options[position] = value
    else:
        args[position] = value
    with pytest.raises(error, match=message):
        delta_net_step(*args, **options)
