# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Strictness for every test: 8 CPU devices, and an implicit broadcast of ranks raises.

Warnings are errors (pyproject.toml); shapes and dtypes of annotated functions are checked at run
time by jaxtyping and beartype.
"""

import os

# Before JAX starts: on a CPU, tests are many small programs, run once each; most of their time
# would go into LLVM's optimiser. GPU tests run what users run.
if not os.path.exists("/dev/nvidiactl"):
    os.environ["XLA_FLAGS"] = (
        os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=0"
    ).strip()

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_collection_modifyitems(items):
    if jax.default_backend() == "gpu":
        return
    skip = pytest.mark.skip(reason="needs an NVIDIA GPU and JAX's CUDA plugin; none is here")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)


@pytest.fixture
def x64():
    """float64 for the test that asks for it."""
    with jax.enable_x64(True):
        yield
