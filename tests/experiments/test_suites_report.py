# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Tables of the suites: ours and the paper's numbers where they belong, from made-up records."""

import json

import pytest

from deltanet_jax.mixers.attention import AttentionConfig
from deltanet_jax.mixers.delta_net import DeltaNetConfig
from experiments.presets import PRESETS
from experiments.suite_presets import MAD_MODELS, MQAR_MODELS, REGBENCH_MODELS
from experiments.suites_report import (
    RESULTS,
    model_name,
    read_records,
    save_suite_pictures,
    suites_section,
)


def record(folder, preset, scores, learning_rates=(1e-3, 1e-2), mixers=(), **figures):
    """A sweep over two rates and the seeds of `scores`, of which the second rate is the better."""
    config = PRESETS[preset]()
    if mixers:
        config = config.replace(model=config.model.replace(layer_pattern=mixers))
    folder.mkdir(parents=True)
    members = [
        {"learning_rate": rate, "weight_decay": 0.1, "seed": seed}
        for rate in learning_rates
        for seed in range(len(scores))
    ]
    (folder / "config.json").write_text(json.dumps({"run": config.to_dict(), "members": members}))
    (folder / "machine.json").write_text(
        json.dumps({"commit": "0123456789abcdef", "device": "Abacus"})
    )
    rows = []
    for member in members:
        worse = 0.0 if member["learning_rate"] == learning_rates[-1] else 0.3
        score = scores[member["seed"]] - worse
        rows.append(member | {"step": config.train.num_steps, "loss": 1.0} | figures)
        rows[-1] |= {config.task.score_name: score, config.task.selection_name: score}
        # A task that counts its best evaluation would take a better one.
        first = 0.0 if config.task.early_stopping else 1.0
        names = config.task.score_name, config.task.selection_name
        rows.append(rows[-1] | dict.fromkeys(names, first) | {"step": 1})
    (folder / "runs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def lines_of(text, begin):
    return [line for line in text.splitlines() if line.startswith(begin)]


def test_without_records_there_is_nothing(tmp_path):
    assert suites_section(tmp_path) == ""
    save_suite_pictures(tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_unfinished_sweep_is_left_out(tmp_path):
    record(tmp_path / "a", "mqar/t512-d64", [0.9])
    path = tmp_path / "a" / "runs.jsonl"
    rows = [row for row in map(json.loads, path.read_text().splitlines()) if row["step"] == 1]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_records(tmp_path) == []
    assert "| DeltaNet |" not in suites_section(tmp_path)
    assert "Cut off, and in no table: a at step 1 of 50,000." in suites_section(tmp_path)


def test_mqar_stands_beside_the_papers(tmp_path):
    record(tmp_path / "a", "mqar/t512-d64", [0.99, 1.0])
    record(tmp_path / "b", "mqar/t512-d128", [0.97, 0.96])
    record(tmp_path / "c", "mqar/t64-d64-conv", [0.5])
    text = suites_section(tmp_path)
    assert "| DeltaNet | 99.5 / 100.0 | 96.5 / 100.0 | – / 100.0 | – / 100.0 |" in text
    assert "| Mamba, conv | – / 81.0 | – / 100.0 | – / 100.0 | – / 100.0 |" in text
    assert lines_of(text, "| DeltaNet, conv") == [
        "| DeltaNet, conv | 50.0 / – | – / – | – / – | – / – |"
    ]
    assert "in %, a dash where nothing was run or published; n: 100,000 training" in text
    # Four runs are two rates with two seeds each, which are averaged; no clock was recorded.
    assert "3,000 held-out examples; 50,000 of the protocol's 50,000 steps, best of 2" in text
    chosen = "best of 2 rates and decays, 2 seeds"
    assert f"{chosen}; in float32, Abacus, commit 0123456789." in text
    assert text.index("MQAR, 64 tokens, 4 pairs") < text.index("MQAR, 512 tokens, 64 pairs")
    save_suite_pictures(tmp_path)
    assert (tmp_path / "mqar.png").stat().st_size > 10_000
    assert not (tmp_path / "regbench.png").exists()


def test_a_hybrid_may_be_swept(tmp_path):
    mixers = DeltaNetConfig(num_heads=2), AttentionConfig(num_heads=2)
    record(tmp_path / "a", "mqar/t512-d64", [0.9], mixers=mixers)
    assert len(lines_of(suites_section(tmp_path), "| DeltaNet, conv + Transformer++ | 90.0 /")) == 1


def test_other_models_stand_beside_theirs_with_what_was_spent(tmp_path):
    record(tmp_path / "a", "mqar/t512-d64-mamba", [0.9, 0.7], seconds=100.4)
    record(tmp_path / "b", "mqar/t512-d128-gla", [0.5], seconds=60.0)
    record(tmp_path / "c", "mqar/t512-d64", [0.995], [1e-3], seconds=44.0)
    text = suites_section(tmp_path)
    assert "| Mamba, conv | 80.0 / 81.0 | – / 100.0 | – / 100.0 | – / 100.0 |" in text
    assert "| GLA | – / 22.0 | 50.0 / 95.0 | – / 100.0 | – / 100.0 |" in text
    steps = "50,000 of the protocol's 50,000 steps"
    assert f"; DeltaNet: {steps}, one rate and decay, 1 seed, 44 to 100 s for all of" in text
    chosen = "best of 2 rates and decays"
    assert f"Mamba, conv: {steps}, {chosen}, 2 seeds; GLA: {steps}, {chosen}, 1 seed" in text
    assert "Mamba, conv at 64, 50,000 steps, by seed: 90.0, 70.0." in text
    assert lines_of(text, "A sweep") == [
        "A sweep of one run, DeltaNet at 64: 44 s on one Abacus to 99.5 %, all counted."
    ]


def test_more_seeds_count_before_a_better_score_and_departures_are_named(tmp_path):
    record(tmp_path / "a", "mqar/t512-d64", [1.0])
    record(tmp_path / "b", "mqar/t512-d64", [0.9, 0.7])
    record(tmp_path / "c", "mqar/t512-d64", [0.6, 0.6])
    record(tmp_path / "d", "mqar/t512-d64", [0.5])
    path = tmp_path / "d" / "config.json"
    header = json.loads(path.read_text())
    departures = {"num_layers": 4, "norm": "layer", "identity_mlp": True, "init_std": 0.1}
    header["run"]["model"] |= departures
    header["run"]["train"]["num_steps"] = 25_000
    header["run"]["train"]["optimizer"]["warmup_steps"] = 2000
    path.write_text(json.dumps(header))
    rows = (tmp_path / "d" / "runs.jsonl").read_text().replace(": 50000", ": 25000")
    (tmp_path / "d" / "runs.jsonl").write_text(rows)
    text = suites_section(tmp_path)
    assert "| DeltaNet | 80.0 / 100.0 |" in text
    names = "4 layers, LayerNorm, x + norm(x) after mixers, initial weights of 0.1"
    other = f"DeltaNet (with {names})"
    assert f"| {other} | 50.0 / 100.0 |" in text
    assert f"protocol has none of: 2,000 ({other} at 64)." in text
    assert f"{other}: 25,000 of the protocol's 50,000 steps" in text


def test_groups_one_after_the_other_add_up(tmp_path):
    record(tmp_path / "a", "mqar/t512-d64", [0.9, 0.7], seconds=100.0)
    path = tmp_path / "a" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"members_at_once": 3}))
    (found,) = read_records(tmp_path)
    assert found.seconds == 200.0 and "seconds" not in found.figures


def test_mad_is_the_mean_over_settings(tmp_path):
    record(tmp_path / "a", "mad/compression", [0.4])
    record(tmp_path / "b", "mad/compression-seq_len-64", [0.2])
    text = suites_section(tmp_path)
    (line,) = lines_of(text, "| DeltaNet, conv")
    cells = [cell.strip() for cell in line.split("|")[2:-1]]
    assert cells[0] == "30.0 (2 of 11) / 42.2"
    assert cells[1] == "– / 35.7" and cells[-1] == "– / 71.8"


def test_mads_mean_is_of_all_settings(tmp_path):
    def mean():
        (line,) = lines_of(suites_section(tmp_path), "| DeltaNet, conv")
        return line.split("|")[-2].strip()

    names = [name for name in PRESETS if name.startswith("mad/")]
    presets = [n for n in names if model_name(PRESETS[n]().model) == "DeltaNet, conv"]
    for i, preset in enumerate([*presets[:65], presets[0]]):  # one of them twice
        record(tmp_path / str(i), preset, [0.5])
    assert len(presets) == 66 and mean() == "– / 71.8"
    record(tmp_path / "last", presets[65], [0.5])
    assert (
        mean() == "50.0 / 71.8" and " of " not in lines_of(suites_section(tmp_path), "| Delta")[0]
    )


def test_regbench_and_lengths(tmp_path):
    record(tmp_path / "a", "regbench/5000-conv", [0.873])
    lengths = {f"accuracy_{n}x": 1 / n for n in (1, 2, 4, 8)}
    record(tmp_path / "b", "state_tracking/parity", [0.25, 0.0], **lengths)
    record(
        tmp_path / "c", "needle/t128", [0.125], mixers=(AttentionConfig(num_heads=2),), **lengths
    )
    text = suites_section(tmp_path)
    assert text.count("held-out examples, half of them to choose the evaluation;") == 2  # not c
    assert "| DeltaNet, conv | – / 81.3 | 87.3 / 87.3 | – / 88.8 | – / 93.1 |" in text
    wanted = "| 100.0 | 50.0 | 25.0 | 12.5 |"
    assert f"| parity, T = 40, width 128 | DeltaNet, beta in (0, 2) {wanted} 25.0, 0.0 |" in text
    assert f"| needle, T = 128, width 128 | Transformer++ {wanted} 12.5 |" in text


def test_hybrids_are_named_after_both_mixers():
    pattern = (DeltaNetConfig(conv_size=0), AttentionConfig(), DeltaNetConfig(conv_size=0))
    model = PRESETS["mqar/t64-d64"]().model.replace(num_layers=3, layer_pattern=pattern)
    assert model_name(model) == "DeltaNet + Transformer++"


def test_the_suites_models_have_the_papers_names():
    paper = json.loads((RESULTS / "paper.json").read_text())
    models = {
        "mqar": [f"mqar/t512-d64{suffix}" for suffix in ("", *MQAR_MODELS)],
        "mad": [f"mad/compression{suffix}" for suffix in MAD_MODELS],
        "regbench": [f"regbench/2500{suffix}" for suffix in REGBENCH_MODELS],
    }
    for suite, presets in models.items():
        ours = {model_name(PRESETS[preset]().model) for preset in presets}
        assert len(ours) == len(presets) and ours >= set(paper[suite]), suite


def test_the_papers_means_are_those_it_prints():
    """Row means of the MAD table, re-computed."""
    printed = {"Transformer++": 74.5, "Hyena": 66.0, "MH-Hyena": 73.2, "Mamba, conv": 69.3}
    paper = json.loads((RESULTS / "paper.json").read_text())["mad"]
    for model, mean in (printed | {"GLA": 60.0, "DeltaNet, conv": 71.8}).items():
        assert sum(paper[model].values()) / 6 == pytest.approx(mean, abs=0.051)
