# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Timing of compiled calls, and the facts about the machine that every recorded number needs."""

import datetime
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jaxlib


def time_call(
    function: Callable, *args, repetitions: int = 10, min_seconds: float = 0.0
) -> list[float]:
    """Wall-clock seconds of single calls, after one that compiles and one that warms up.

    Args:
        function: returns arrays, whose completion is waited for.
        *args: its arguments.
        repetitions: timed calls at least.
        min_seconds: keep timing until this much time was measured in all.
    """
    for _ in range(2):
        jax.block_until_ready(function(*args))
    seconds: list[float] = []
    while len(seconds) < repetitions or sum(seconds) < min_seconds:
        start = time.perf_counter()
        jax.block_until_ready(function(*args))
        seconds.append(time.perf_counter() - start)
    return seconds


def _git(*arguments: str) -> str | None:
    try:
        root = Path(__file__).resolve().parents[2]
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def machine_info() -> dict[str, object]:
    """Devices, versions, commit, command and date, as plain JSON values."""
    changed = _git("status", "--porcelain", "--untracked-files=no")
    return {
        "device": jax.devices()[0].device_kind,
        "device_count": jax.device_count(),
        "process_count": jax.process_count(),
        "cpu": _cpu_name(),
        "cpu_count": len(_usable_cpus()),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": None if changed is None else bool(changed),
        "command": " ".join(["python", "-m", _module_name(), *sys.argv[1:]]),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _usable_cpus() -> list[int]:
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor()


def _module_name() -> str:
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return spec.name if spec is not None else Path(sys.argv[0]).name
