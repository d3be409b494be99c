# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""--distributed: several processes, on one host or many, as one run. `jax.distributed` does it."""

import logging

import jax

logger = logging.getLogger("experiments")


def start(value: str | None, heartbeat_seconds: int = 100) -> None:
    """Joins this process to the others, before anything uses a device.

    Args:
        value: None or "" for a run of one process; "auto" where the launcher says who is who
            (SLURM, Open MPI, Kubernetes with its Python package); else
            "HOST:PORT,PROCESSES,INDEX", the same first two for all processes.
        heartbeat_seconds: a process that is not heard of for so long ends the others.
    Raises:
        ValueError: anything else.
    """
    if not value:
        return
    if value == "auto":
        jax.distributed.initialize(heartbeat_timeout_seconds=heartbeat_seconds)
    else:
        address, processes, index = _parse(value)
        jax.distributed.initialize(
            address, processes, index, heartbeat_timeout_seconds=heartbeat_seconds
        )
    logger.info(
        "process %d of %d, %d of %d devices",
        jax.process_index(),
        jax.process_count(),
        jax.local_device_count(),
        jax.device_count(),
    )


def _parse(value: str) -> tuple[str, int, int]:
    wanted = f'distributed: wanted "auto" or "HOST:PORT,PROCESSES,INDEX", got {value!r}'
    try:
        address, processes, index = value.split(",")
        processes, index = int(processes), int(index)
    except ValueError:
        raise ValueError(wanted) from None
    if ":" not in address or not 0 <= index < processes:
        raise ValueError(wanted)
    return address, processes, index
