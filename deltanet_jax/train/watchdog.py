# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Ends a run that stands still, with every thread's stack on standard error."""

import faulthandler
import os
import threading
import time

from deltanet_jax.train.stop import HUNG


class Watchdog:
    """Ends the process with code HUNG if `touch` was not called for `seconds`; 0 watches nothing.

    It begins with the first `touch`: how long compiling takes, nobody knows before. Should
    Python's lock be held by what hangs, the process ends after twice the time, with code 1.
    Use as a context manager.
    """

    def __init__(self, seconds: float):
        self._seconds = seconds
        self._touched: float | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        if self._seconds:
            self._thread.start()
        return self

    def __exit__(self, *exc_info) -> None:
        if self._seconds:
            self._closed.set()
            self._thread.join()
            faulthandler.cancel_dump_traceback_later()

    def touch(self) -> None:
        """The run goes on."""
        if self._seconds:
            self._touched = time.monotonic()
            faulthandler.dump_traceback_later(2 * self._seconds, exit=True, file=2)

    def _watch(self) -> None:
        while not self._closed.wait(self._seconds / 8):
            if self._touched is None:
                continue
            still = time.monotonic() - self._touched
            if still > self._seconds:
                message = f"nothing happened for {still:.0f} s; the run ends here"
                os.write(2, f"\nhung: {message}. Where every thread was:\n".encode())
                faulthandler.dump_traceback(file=2)
                os._exit(HUNG)
