# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""How JAX and XLA are set up for a run: the one place where compiler options are chosen."""

import logging
import os
from pathlib import Path

import jax
from absl import flags

logger = logging.getLogger("experiments")

# Asked for by --deterministic: the same program gives the same bits in every process. XLA then
# takes no algorithm that adds in an order of its own and times none to choose by speed.
DETERMINISTIC = (
    "--xla_gpu_deterministic_ops=true",
    "--xla_gpu_autotune_level=0",
    # Untuned, XLA's own products have tiles of 16 x 8: cuBLAS chooses by size, always the same.
    "--xla_gpu_enable_triton_gemm=false",
)


def configure(*, deterministic: bool, compilation_cache_dir: str) -> None:
    """Call before anything uses a device.

    Args:
        deterministic: add DETERMINISTIC to XLA_FLAGS (they act on GPUs).
        compilation_cache_dir: where compiled programs are kept between runs, "~" allowed; empty
            keeps none. The environment's JAX_COMPILATION_CACHE_DIR goes before it.
    """
    if deterministic:
        options = [os.environ.get("XLA_FLAGS", ""), *DETERMINISTIC]
        os.environ["XLA_FLAGS"] = " ".join(options).strip()
    if compilation_cache_dir and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = Path(compilation_cache_dir).expanduser()
        jax.config.update("jax_compilation_cache_dir", str(folder))
        logger.info("compiled programs are kept in %s", folder)


def configure_from_flags(values: flags.FlagValues) -> None:
    """`configure` as --deterministic and --compilation_cache_dir say."""
    configure(
        deterministic=values.deterministic, compilation_cache_dir=values.compilation_cache_dir
    )
