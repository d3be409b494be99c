# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Lowers functions with Triton kernels for CUDA, jax-triton and all, without a GPU."""

import importlib.util

import jax
import pytest

from pallas_kernels._common import triton_device


def _jax_triton_imports() -> bool:
    plugins = any(importlib.util.find_spec(f"jax_cuda{n}_plugin") for n in (12, 13))
    return triton_device.installed() and plugins


needs_jax_triton = pytest.mark.skipif(
    not _jax_triton_imports(), reason="needs jax-triton and JAX's CUDA plugin"
)


def check_lowers(function, args, calls):
    """Outputs of `function`(*args) and gradients of `args` with their own shapes and dtypes, by
    `calls` kernels."""

    def run(args):
        outputs, vjp = jax.vjp(function, *args)
        return outputs, vjp(outputs)

    traced = jax.jit(run).trace(args)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("@triton_kernel_call") == calls
    _, gradients = traced.out_info
    assert [(x.shape, x.dtype) for x in gradients] == [(x.shape, x.dtype) for x in args]
