# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Stopping a run from outside: a signal asks, the loop saves and ends; a second one ends at once.

Python runs its signal handlers between two of its instructions, which a compilation of minutes
is not. A thread that waits for signals sees them at any time.
"""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

# Exit codes of a run, of sysexits.h. 0 is finished, 1 a refusal of bad input.
INTERRUPTED = os.EX_TEMPFAIL  # 75: saved; the same command goes on
IO_ERROR = os.EX_IOERR  # 74: a file could not be read or written; checkpoints on disk are intact
HUNG = os.EX_SOFTWARE  # 70: see watchdog.py
NOT_FINITE = os.EX_DATAERR  # 65: too many steps skipped in a row

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupted(Exception):
    """The run was asked to stop and has saved all that it did, up to `step`."""

    def __init__(self, step: int):
        super().__init__(f"interrupted; step {step} is saved, the same command goes on from there")
        self.step = step


class Stop:
    """Whether this run was asked to stop.

    Attributes:
        unsaved: whether there is work that is in no checkpoint. While there is none, and the run
            is of one process, a signal ends it without waiting for the loop.
    """

    def __init__(self):
        self._asked = threading.Event()
        self._agreement: _Agreement | None = None
        self.unsaved = True

    def ask(self) -> None:
        """What a signal does."""
        self._asked.set()

    def agree_over(self, mesh: Mesh) -> None:
        """From now on all processes give the same answer, if there are several."""
        if jax.process_count() > 1:
            self._agreement = _Agreement(mesh)

    def asked(self) -> bool:
        """Whether to stop; all processes must ask equally often."""
        if self._agreement is None:
            return self._asked.is_set()
        return self._agreement.any(self._asked.is_set())

    @contextlib.contextmanager
    def on_signals(self, processes: bool) -> Iterator[None]:
        """SIGTERM and SIGINT ask; from the main thread only. `processes`: there are several."""
        self.unsaved = processes
        reading, writing = socket.socketpair()
        writing.setblocking(False)
        old = {s: signal.signal(s, lambda *_: None) for s in SIGNALS}
        old_descriptor = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
        watcher = threading.Thread(target=self._watch, args=(reading,), name="signals", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(old_descriptor)
            for number, handler in old.items():
                signal.signal(number, handler)
            writing.close()
            watcher.join()
            reading.close()

    def _watch(self, signals: socket.socket) -> None:
        while number := signals.recv(1):
            if number[0] not in SIGNALS:
                continue
            name = signal.Signals(number[0]).name
            if self._asked.is_set():
                _say(f"{name} again: the run ends here; checkpoints on disk are intact")
                os._exit(128 + number[0])
            if not self.unsaved:
                _say(f"{name}: no step was done since the newest checkpoint; the run ends here")
                os._exit(INTERRUPTED)
            _say(f"{name}: the run saves and ends; a second signal ends it at once")
            self.ask()


class _Agreement:
    """The largest of all processes' flags, a call late, so that nobody waits for it."""

    def __init__(self, mesh: Mesh):
        self._spread = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        self._size = mesh.size
        self._largest = jax.jit(
            lambda flags: flags.max(), out_shardings=NamedSharding(mesh, PartitionSpec())
        )
        self._last = None

    def any(self, flag: bool) -> bool:
        flags = jax.make_array_from_callback(
            (self._size,), self._spread, lambda index: np.full(self._size, flag, np.int32)[index]
        )
        last, self._last = self._last, self._largest(flags)
        return last is not None and bool(last)


def _say(text: str) -> None:
    """To standard error, whatever the other threads are doing."""
    os.write(2, f"\n{text}\n".encode())
