# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Numbers as TensorBoard's events, written where they are made.

tensorboardX's SummaryWriter writes in a thread that waits by the wall clock. A clock that is set
back by a month ends that thread, its queue fills, and the run stands still.
"""

import os
import time
from pathlib import Path

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary


class Board:
    """A file of events below `directory`; what older files have from `step` on is not shown."""

    def __init__(self, directory: Path, step: int):
        directory.mkdir(exist_ok=True)
        # The name has the second; the process tells two of the same second apart.
        self._events = EventsWriter(str(directory / "events"), f".{os.getpid()}")
        self._write(step, session_log=SessionLog(status=SessionLog.START))

    def write(self, step: int, values: dict[str, float]) -> None:
        """One event with all of `values`. Raises OSError if it cannot be written."""
        scalars = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._write(step, summary=Summary(value=scalars))

    def _write(self, step: int, **content) -> None:
        self._events.write_event(Event(wall_time=time.time(), step=step, **content))
        self._events.flush()

    def close(self) -> None:
        self._events.close()
