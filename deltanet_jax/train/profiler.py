# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""A trace of some steps, for XProf or TensorBoard's profile page."""

from pathlib import Path

import jax


class Profiler:
    """Traces the steps from `steps[0]` to `steps[1]`, or none."""

    def __init__(self, directory: Path, steps: tuple[int, int] | None):
        self._directory = directory
        self._first, self._last = steps or (0, 0)
        self._tracing = False

    def before(self, step: int) -> None:
        """Starts the trace if `step` is the first one."""
        if step == self._first:
            jax.profiler.start_trace(self._directory)
            self._tracing = True

    def after(self, step: int, results) -> None:
        """Ends the trace once `results` of the last step are there."""
        if self._tracing and step >= self._last:
            jax.block_until_ready(results)
            self.close()

    def close(self) -> None:
        """Ends the trace if one is going on."""
        if self._tracing:
            self._tracing = False
            jax.profiler.stop_trace()
