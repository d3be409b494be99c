# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The small main table compares models of one size on the same tokens."""

import json

import pytest

from deltanet_jax.accounting import cost
from experiments.lm_small import configs
from experiments.lm_small_presets import ABLATION, LM_SMALL_PRESETS, MODELS, PREFIX
from experiments.lm_small_report import RESULTS
from experiments.run_config import read_run_config

RUNS = {name: make() for name, make in LM_SMALL_PRESETS.items()}
EMBEDDINGS = 32_000 * 1024


def test_all_models_have_the_same_size_within_three_percent():
    runs = {name: RUNS[PREFIX + name] for name in (*MODELS, "l1-identity")}
    sizes = {name: cost(run.model, run.task.seq_len).parameters for name, run in runs.items()}
    middle = sizes["delta_net"]
    assert middle - EMBEDDINGS >= 40_000_000
    assert {name: size for name, size in sizes.items() if abs(size / middle - 1) > 0.03} == {}


@pytest.mark.parametrize("group", [MODELS, ABLATION])
def test_one_recipe_and_one_number_of_tokens(group):
    runs = [RUNS[PREFIX + name] for name in group]
    assert len({(run.train, run.task) for run in runs}) == 1
    tokens = runs[0].train.num_steps * runs[0].train.batch_size * runs[0].task.seq_len
    wanted = 150e6 if group is MODELS else 75e6
    assert wanted <= tokens < wanted + 2**17


def test_hybrids_are_the_papers():
    """Sliding windows in every second layer; global attention in layers 2 and N / 2 + 1."""
    kinds = {name: [mixer.kind for mixer in run.model.layer_pattern] for name, run in RUNS.items()}
    assert kinds[PREFIX + "delta_net_swa"] == ["delta_net", "attention"]
    pattern = kinds[PREFIX + "delta_net_global"]
    assert [i + 1 for i, kind in enumerate(pattern) if kind == "attention"] == [2, 6 // 2 + 1]
    assert len(pattern) == 6


def test_the_ablation_starts_from_the_tables_delta_net():
    assert ABLATION["l2-silu"].layer_pattern == MODELS["delta_net"].layer_pattern
    assert len({shape.layer_pattern for shape in ABLATION.values()}) == 8


@pytest.mark.parametrize("folder", sorted(p.parent for p in RESULTS.glob("*/config.json")))
def test_records_are_of_their_presets(folder):
    name, _, seed = folder.name.partition("-seed-")
    found = read_run_config(folder)
    [wanted] = configs([name], found.task.data[0], False, int(seed or 0)).values()
    assert found == wanted
    assert json.loads((folder / "record.json").read_text())["steps"] == wanted.train.num_steps
