# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The suites' presets are the settings that the protocols name."""

import re

import pytest

from experiments.suite_presets import SUITE_PRESETS

KINDS = {"transformer": "attention"}


def names(pattern):
    return [name for name in SUITE_PRESETS if re.fullmatch(pattern, name)]


def test_there_is_a_preset_for_every_setting():
    assert len(names("mqar/.*")) == 4 * 4 * 2 + 4 * 6
    assert len(names("mad/.*")) == 66 * 8
    assert len(names("regbench/.*")) == 4 * (2 + 6)
    assert len(names("state_tracking/.*")) == 4 * 3


def test_mqar_is_zoologys_figure_with_the_papers_heads():
    sizes = {64: (4, 512), 128: (8, 512), 256: (16, 256), 512: (64, 128)}
    for name in names("mqar/.*"):
        config = SUITE_PRESETS[name]()
        length, width, model = re.fullmatch(r"mqar/t(\d+)-d(\d+)(?:-(\w+))?", name).groups()
        (mixer,) = config.model.layer_pattern
        assert (config.task.seq_len, config.model.d_model) == (int(length), int(width))
        if model in (None, "conv"):
            assert (mixer.num_heads, mixer.conv_size) == (2, 4 if model else 0)
        else:
            assert mixer.kind == KINDS.get(model, model) and length == "512"
        assert (config.task.num_kv_pairs, config.train.batch_size) == sizes[int(length)]
        epochs = config.train.num_steps * config.train.batch_size / config.task.num_train_examples
        assert epochs == pytest.approx(64, abs=0.01)
        assert config.task.vocab_size == 8192 and config.model.mlp_hidden_size == 0


def test_mad_changes_one_thing_at_a_time():
    for problem in {name.split("-")[0] for name in names("mad/.*")}:
        baseline = SUITE_PRESETS[problem]()
        assert (baseline.train.num_steps, baseline.model.bottleneck) == (
            400 if "memor" in problem else 20_000,
            "compression" in problem,
        )
        for name in names(f"{problem}-.*-.*"):
            _, option, value, *_ = name.split("-")
            task = SUITE_PRESETS[name]().task
            assert str(getattr(task, option)) == value
            assert task.replace(**{option: getattr(baseline.task, option)}) == baseline.task


def test_regbench_and_state_tracking():
    config = SUITE_PRESETS["regbench/5000-conv"]()
    assert (config.task.num_train_examples, config.model.layer_pattern[0].conv_size) == (5000, 4)
    assert config.train.num_steps == 90 * 5000 // 32 and config.model.embed_dropout == 0.1
    for problem in ("parity", "modular_arithmetic", "s3", "s5"):
        both = [SUITE_PRESETS[f"state_tracking/{problem}{s}"]() for s in ("", "-positive")]
        assert [c.model.layer_pattern[0].allow_neg_eigval for c in both] == [True, False]
        assert both[0].task == both[1].task and both[0].train == both[1].train
        (product,) = SUITE_PRESETS[f"state_tracking/{problem}-delta_product"]().model.layer_pattern
        assert (product.kind, product.num_householder) == ("delta_product", 2)
        convs = {product.conv_size, *(c.model.layer_pattern[0].conv_size for c in both)}
        assert convs == {4 if problem == "modular_arithmetic" else 0}
    parity = SUITE_PRESETS["state_tracking/parity"]().train
    assert (parity.num_steps, parity.eval_every_steps) == (2000, 50)
    assert (parity.optimizer.warmup_steps, parity.optimizer.learning_rate) == (200, 1e-2)


def test_other_models_differ_from_delta_net_in_their_mixers_alone():
    """And RegBench's Transformer++ in its feed-forward width."""
    others = [
        n for n in SUITE_PRESETS if re.search(r"-(transformer|mamba|gla|hy|mh_|retn|rwk|ga)", n)
    ]
    assert len(others) == 4 * 6 + 66 * 7 + 4 * 6
    for name in others:
        config = SUITE_PRESETS[name]()
        base = SUITE_PRESETS[re.sub(r"-[a-z]\w*(-conv)?$", "", name)]()
        assert config.task == base.task and config.train == base.train
        changes = {"layer_pattern": base.model.layer_pattern}
        if name.startswith("regbench"):
            width = 512 if "transformer" in name else 320
            assert config.model.mlp_hidden_size == width
            changes["mlp_hidden_size"] = base.model.mlp_hidden_size
        assert config.model.replace(**changes) == base.model
        assert config.model.layer_pattern != base.model.layer_pattern


def test_mamba_and_hyena_are_the_protocols():
    (mamba,) = SUITE_PRESETS["mad/compression-mamba"]().model.layer_pattern
    assert (mamba.state_size, mamba.conv_size, mamba.expand) == (4, 4, 2)
    (bare,) = SUITE_PRESETS["regbench/2500-mamba"]().model.layer_pattern
    assert bare.conv_size == 0
    (hyena,) = SUITE_PRESETS["mqar/t512-d64-hyena"]().model.layer_pattern
    assert (hyena.filter_length, hyena.num_heads) == (512, None)
