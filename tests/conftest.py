# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Strictness for every test: 8 CPU devices, and an implicit broadcast of ranks raises.

Warnings are errors (pyproject.toml); shapes and dtypes of annotated functions are checked at run
time by jaxtyping and beartype.
"""

import os
import shutil
import tempfile

# Before JAX starts: on a CPU, tests are many small programs, run once each; most of their time
# would go into LLVM's optimiser, into an MLIR context for every fusion and into cutting a program
# up for threads that the other workers keep from running. GPU tests run what users run.
if not os.path.exists("/dev/nvidiactl"):
    quick = (
        "--xla_backend_optimization_level=0",
        "--xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters",
        "--xla_cpu_parallel_codegen_split_count=1",
    )
    os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *quick]).strip()

# One compilation cache for all workers and the commands that tests start, thrown away at the end.
OWN_CACHE = "JAX_COMPILATION_CACHE_DIR" not in os.environ
if OWN_CACHE:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="deltanet-jax-tests-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"

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


def pytest_sessionfinish():
    if OWN_CACHE:  # only in the process that made it, not in its workers
        shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)


@pytest.fixture
def x64():
    """float64 for the test that asks for it."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def no_jaxtyping(monkeypatch):
    """Without jaxtyping's checks, which would catch wrong shapes before the library's own do."""
    import jaxtyping

    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
