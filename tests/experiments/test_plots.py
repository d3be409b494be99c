# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Pictures leave nothing out."""

import matplotlib.pyplot as plt
import pytest

from experiments import plots
from tests.helpers.models import small_task

NAMES = [f"model {i}" for i in range(12)]
DRAWN = {
    "accuracy": lambda path: plots.save_accuracy_plot(
        path, {name: [(1, 0.5), (2, 0.7)] for name in NAMES}, small_task()
    ),
    "speedup": lambda path: plots.save_speedup_plot(
        path, [{"head_dim": i, "length": 8, "speedup": 1.0} for i in range(12)], "cpu"
    ),
    "throughput": lambda path: plots.save_throughput_plot(path, {name: {8: 1.0} for name in NAMES}),
    "curves": lambda path: plots.save_curves(
        path, {name: [(1.0, 0.5), (2.0, 0.7)] for name in NAMES}, "x", "y"
    ),
}


@pytest.mark.parametrize("kind", DRAWN)
def test_every_curve_is_drawn(kind, tmp_path, monkeypatch):
    """However many there are: colours come again."""
    figures = []
    monkeypatch.setattr(plt.Figure, "savefig", lambda self, path: figures.append(self))
    DRAWN[kind](tmp_path / "picture.png")
    (legend,) = (axes.get_legend() for axes in figures[0].axes)
    assert len(legend.texts) == len(NAMES)
