# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""What became of each step: read one step late, checked, logged, shown, with what it cost."""

import logging
import math
import time

import jax
import numpy as np

from deltanet_jax import accounting
from deltanet_jax.model import ModelConfig
from deltanet_jax.train.config import TrainConfig
from deltanet_jax.train.guard import FINITE, SkippedSteps
from deltanet_jax.train.metrics import MetricsLog, Progress, named
from deltanet_jax.train.task import Batch

logger = logging.getLogger("deltanet_jax")


class StepReader:
    """Fetches a step's metrics after the next step was sent off, so the device never waits."""

    def __init__(
        self, model: ModelConfig, config: TrainConfig, log: MetricsLog, progress: Progress
    ):
        self._model, self._config, self._log, self._progress = model, config, log, progress
        self._pending = None
        self._seconds: list[float] = []  # of every step since the last row
        self._last = time.perf_counter()

    def push(self, step: int, metrics: dict[str, jax.Array], batch: Batch) -> None:
        """Hands in the metrics of `step`, and reads those of the step before."""
        self.flush()
        self._pending = (step, metrics, batch)

    def flush(self) -> None:
        """Reads what is pending. Raises SkippedSteps if too many in a row were skipped."""
        if self._pending is None:
            return
        (step, metrics, batch), self._pending = self._pending, None
        values = {k: float(v) for k, v in jax.device_get(metrics).items()}
        in_row = int(values.pop("skipped_in_row"))
        if in_row >= self._config.max_skipped_steps:
            raise SkippedSteps(step, batch, values, in_row)
        if in_row:
            logger.warning("step %d skipped: loss %g, grad_norm %g", step, *map(values.get, FINITE))
        now = time.perf_counter()
        self._seconds.append(now - self._last)
        self._last = now
        performance = self._performance(*batch["inputs"].shape)
        text = f"loss {values['loss']:.4f}, accuracy {values['accuracy']:.3f}, "
        text += f"{performance['tokens_per_second']:,.0f} tokens/s"
        if "mfu" in performance:
            text += f", MFU {performance['mfu']:.1%}"
        self._progress.update(step, text)
        if step % self._config.log_every_steps == 0 or step == self._config.num_steps:
            finite = {k: v for k, v in values.items() if math.isfinite(v)}  # JSON has no NaN
            self._log.write(step, named("train", finite) | named("perf", performance))
            self._seconds = []

    def restart_clock(self) -> None:
        """What was done since the last step was read, an evaluation, is no step's time."""
        self._last = time.perf_counter()

    def _performance(self, rows: int, columns: int) -> dict[str, float]:
        """What the steps since the last row of the log cost, over all devices.

        Step times are the median and the spread from the 10th to the 90th percentile; the first
        step's has the compilation in it. Memory is the largest in use so far, of one device.
        """
        speed = rows * columns * len(self._seconds) / sum(self._seconds)
        low, median, high = np.percentile(self._seconds, [10, 50, 90])
        performance = {
            "tokens_per_second": speed,
            "step_seconds": float(median),
            "step_seconds_spread": float(high - low),
        }
        peak = accounting.peak_flops(jax.devices())
        if peak is not None:
            cost = accounting.cost(self._model, columns)
            performance["mfu"] = cost.mfu(speed, peak)
            performance["hfu"] = cost.hfu(speed, peak)
        memory = jax.local_devices()[0].memory_stats() or {}
        if "peak_bytes_in_use" in memory:
            performance["peak_memory_gib"] = memory["peak_bytes_in_use"] / 2**30
        return performance
