# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""What a command prints of logs: our own lines, and warnings of everything else."""

import logging
import sys

from absl import logging as absl_logging


def quiet_logs() -> None:
    """Plain lines of our packages from INFO on; of Orbax, JAX and others from WARNING on."""
    absl_logging.set_verbosity(absl_logging.WARNING)
    logging.getLogger("jax").setLevel(logging.WARNING)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    for name in ("pallas_kernels", "deltanet_jax", "experiments"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        logger.propagate = False
        logger.handlers = [handler]
