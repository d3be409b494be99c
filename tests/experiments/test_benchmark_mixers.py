# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The mixers' benchmark: small mixers end to end, what it refuses, its table."""

import subprocess
import sys
import types

import pytest

from deltanet_jax.mixers.registry import MIXERS
from experiments.benchmarks import mixers, mixers_tables, records
from experiments.benchmarks.timing import Clock
from tests.helpers.models import MIXERS as SMALL

SIZES = {"B": 2, "T": 24, "D": 16}


def row(kind, **changes):
    small = mixers.time_mixer(SMALL[kind], Clock(), SIZES, 2, 0.0)
    where = {"run": "1", "device": "NVIDIA H200", "commit": "0123456789", "driver": "1", "jax": "2"}
    return small | where | changes


def test_a_mixer_is_timed_checked_and_shown(tmp_path, monkeypatch):
    one = row("linear_attention", date="2026-01-01")
    speed = 2 * 24 / one["median_ms"] * 1e3
    assert one["tokens_per_second"] == pytest.approx(speed, rel=1e-3)
    assert 0 < one["rms_error"]["y"] < 3e-2
    fast = {"median_ms": 0.048, "tokens_per_second": 1e6, "flops_per_token": 2e6}
    rows = [one, one | fast | {"implementation": "mamba", "memory_bytes": 2**31}]
    rows += [one | {"date": "2025-01-01", "shape": SIZES | {"T": 8}}, rows[1] | {"median_ms": 9.0}]
    rows[-1]["date"] = "2025-12-31"
    for each in rows:
        records.append(tmp_path, each)
    found = mixers_tables.load(tmp_path / "nvidia-h200")
    assert [r["implementation"] for r in found] == ["mamba", "linear_attention"]
    line = mixers_tables.mixers_table(found).splitlines()[2]
    assert line.startswith("| `mamba` | 1,000,000 | 0.05 | 2 | 2.0 | ")
    monkeypatch.setattr(mixers_tables, "ROOT", tmp_path)
    monkeypatch.setattr(mixers_tables, "load", lambda: found)
    mixers_tables.save_mixers_picture()
    assert (tmp_path / "nvidia-h200" / "mixers.png").read_bytes().startswith(b"\x89PNG")
    assert "2 x 24 tokens of width 16" in mixers_tables.mixers_speed_section()


def test_every_mixer_of_the_registry_can_be_chosen_and_no_other():
    configs = mixers.chosen(types.SimpleNamespace(mixers=list(MIXERS)))
    assert [config.kind for config in configs] == list(MIXERS)
    with pytest.raises(ValueError, match="^mixers: wanted some of .*got 'gpt'"):
        mixers.chosen(types.SimpleNamespace(mixers=["gpt"]))


@pytest.mark.slow
def test_the_command_names_what_failed(tmp_path):
    """Five channels do not make DeltaNet's eight heads."""
    command = [sys.executable, "-m", "experiments.benchmarks.mixers", "--rows=1", "--columns=8"]
    command += ["--d_model=5", "--mixers=rwkv4,delta_net", "--repetitions=1"]
    done = subprocess.run(
        [*command, f"--record_dir={tmp_path}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "delta_net: head_k_dim: wanted" in done.stderr
    (path,) = tmp_path.rglob("mixers.jsonl")
    assert [r["implementation"] for r in records.read(path)] == ["rwkv4"]
