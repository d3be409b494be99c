# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The training benchmark: a small case end to end, what it plans, what it refuses."""

import dataclasses
import json
import types

import jax
import pytest

from deltanet_jax import accounting, sharding
from deltanet_jax.train.memory import estimate
from experiments.benchmarks import train, train_tables


def flags(**changes):
    values = {
        "presets": ["deltanet_1b3", "transformer_1b3"],
        "shapes": ["16x2048", "1x32768"],
        "implementations": ["ours", "fla"],
        "param_dtype": "float32",
        "remat": "products",
        "scan_unroll": 24,
        "residuals": "recompute",
        "steps": 3,
        **{f"mesh_{axis}": 1 for axis in sharding.MESH_AXES},
    }
    return types.SimpleNamespace(**(values | changes))


def test_every_preset_and_shape_is_planned_and_fla_only_where_it_has_the_model():
    planned = [(c.preset, c.rows, c.columns, c.implementation) for c in train.cases(flags())]
    assert planned == [
        ("deltanet_1b3", 16, 2048, "ours"),
        ("deltanet_1b3", 16, 2048, "fla"),
        ("deltanet_1b3", 1, 32768, "ours"),
        ("deltanet_1b3", 1, 32768, "fla"),
        ("transformer_1b3", 16, 2048, "ours"),
        ("transformer_1b3", 1, 32768, "ours"),
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"presets": ["gpt"]}, "^presets: wanted some of"),
        ({"shapes": ["2048"]}, "^shapes: wanted ROWSxTOKENS, got '2048'"),
        ({"implementations": ["megatron"]}, "^implementations: wanted ours, fla, got 'megatron'"),
    ],
)
def test_impossible_flags_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        train.cases(flags(**changes))


def test_a_case_is_timed(tmp_path, monkeypatch):
    monkeypatch.setitem(accounting.PEAK_FLOPS, jax.devices()[0].device_kind, 1e9)
    values = flags(presets=["transformer_1b3"], shapes=["4x64"], steps=6)
    (case,) = train.cases(values)
    row = train.time_ours(case, d_model=32, num_layers=2, vocab_size=64)
    assert len(row["step_s"]) == 6
    assert row["tokens_per_second"] == pytest.approx(256 / row["median_step_s"], rel=0.1)
    speed = row["tokens_per_second"] * row["flops_per_token"] / 1e9
    assert row["mfu"] == pytest.approx(speed, abs=1e-4)
    assert row["first_step_s"] > row["median_step_s"]
    train.write(tmp_path, row | {"device": "Some GPU"})
    (line,) = (tmp_path / "some-gpu" / "train.jsonl").read_text().splitlines()
    assert json.loads(line)["losses"] == row["losses"]


def test_a_model_that_does_not_learn_is_no_row():
    case = train.cases(flags())[0]
    with pytest.raises(FloatingPointError, match="losses 2.0 to 3.0"):
        train.make_row(case, [1.0, 1.0], [2.0, 3.0], peak_flops=None, flops_per_token=1)


def case_row(**changes):
    one = dict.fromkeys(sharding.MESH_AXES, 1)
    row = train.make_row(
        dataclasses.replace(train.cases(flags())[0], mesh=one),
        [0.5, 0.5, 0.6],
        [3.0, 2.0],
        peak_flops=1e12,
        flops_per_token=1e6,
        peak_memory_bytes=2**31,
        first_step_s=61.2,
    )
    where = {"commit": "0123456789", "driver": "1.2", "date": "2026-01-01"}
    return row | where | changes


def test_table_of_training(tmp_path, monkeypatch):
    fla = {"implementation": "fla", "tokens_per_second": 32768.0}
    two = {"mesh": {"data": 1, "fsdp": 2, "tensor": 1, "sequence": 1}}
    rows = [case_row(), case_row(**fla), case_row(commit="9876543210"), case_row(**two)]
    table = train_tables.train_table(rows).splitlines()[2:]
    assert table[0] == (
        "| deltanet_1b3 | 16 x 2048 | float32 | products, recompute, 24 | 1 | 65,536 | 2.00 "
        "| 500 (80) | 6.6% | 2.0 | 61 | 0123456 |"
    )
    # Not over another commit's FLA, nor two devices over its one.
    assert [line.split(" | ")[6] for line in table[1:]] == ["–", "–", "–"]
    assert train_tables.curves([case_row(param_dtype="bfloat16")]) == {
        "deltanet_1b3": {2048: 65536.0}
    }
    path = tmp_path / train_tables.DEVICE / "train.jsonl"
    path.parent.mkdir()
    path.write_text("".join(json.dumps(row) + "\n" for row in (*rows, rows[1])))
    assert len(train_tables.load(path.parent)) == 3  # the latest of each
    monkeypatch.setattr(train_tables, "load", lambda: [case_row(param_dtype="bfloat16")])
    monkeypatch.setattr(train_tables, "ROOT", tmp_path)
    train_tables.save_training_picture()
    assert (path.parent / "train.png").read_bytes().startswith(b"\x89PNG")


# With remat "none" the estimate is a bound.
OURS = [
    row for row in train_tables.load() if row["implementation"] == "ours" and row["remat"] != "none"
]


@pytest.mark.parametrize(
    "row",
    [pytest.param(row, marks=[pytest.mark.slow] * (i % 4 != 0)) for i, row in enumerate(OURS)],
    ids=[f"{row['preset']}-{row['rows']}x{row['columns']}-{row['param_dtype']}" for row in OURS],
)
def test_estimated_memory_is_near_the_measured_peak(row):
    case = train.Case(**{f.name: row[f.name] for f in dataclasses.fields(train.Case)})
    trainer, config = train.make_trainer(case)
    estimated = estimate(trainer, config, case.columns).total
    assert estimated == pytest.approx(row["peak_memory_bytes"], rel=0.1)
