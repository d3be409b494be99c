# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""A run in which one thing breaks: python -m experiments.faults.broken KIND NUMBER FLAGS

FLAGS are those of experiments.main; it breaks at the NUMBERth time that KIND is about.
"""

import itertools
import os
import runpy
import shutil
import signal
import sys
import time
from collections.abc import Callable

from deltanet_jax.train import loop, manifest

YEARS = 10 * 365 * 86_400  # seconds


def _before(owner, name: str, action: Callable[[], None], applies=lambda *args: True):
    """What, given a number, has `action` happen before that call of `owner.name` that `applies`."""

    def install(number: int) -> None:
        function, calls = getattr(owner, name), itertools.count(1)

        def broken(*args, **options):
            if applies(*args) and next(calls) == number:
                action()
            return function(*args, **options)

        setattr(owner, name, broken)

    return install


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _hang() -> None:
    time.sleep(3600)


def _clock_jumps(number: int) -> None:
    """After every `number` looks the clock jumps by ten years: ahead, back, back, ahead."""
    looks = itertools.count(1)

    def jumping(read: Callable[[], float], second: int) -> Callable[[], float]:
        def look():
            return read() + (0, 1, 0, -1)[next(looks) // number % 4] * YEARS * second

        return look

    time.time, time.time_ns = jumping(time.time, 1), jumping(time.time_ns, 10**9)


KILLS = {
    "killed_before_manifest": _before(manifest, "write", _kill),
    "killed_before_name": _before(
        os, "rename", _kill, lambda old, new: str(old).endswith(".saving")
    ),
    "killed_before_removal": _before(
        os, "rename", _kill, lambda old, new: str(new).endswith(".removing")
    ),
    "killed_in_removal": _before(
        shutil, "rmtree", _kill, lambda path, *_: str(path).endswith(".removing")
    ),
}
KINDS = KILLS | {"hangs": _before(loop, "put_batch", _hang), "clock_jumps": _clock_jumps}


def main() -> None:
    try:
        kind, number, *arguments = sys.argv[1:]
        install, number = KINDS[kind], int(number)
    except (ValueError, KeyError):
        sys.exit(f"error: wanted one of {sorted(KINDS)} and a number, got {sys.argv[1:3]}")
    install(number)
    sys.argv[1:] = arguments
    runpy.run_module("experiments.main", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
