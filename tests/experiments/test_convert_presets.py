# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The models that we train as FLA's: those of the small main table and the paper's."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from deltanet_jax.fla.config import differences, fla_config, model_config
from deltanet_jax.fla.folder import read_config
from deltanet_jax.mixers.delta_net import DeltaNetConfig
from deltanet_jax.mixers.gated_delta_net import GatedDeltaNetConfig
from deltanet_jax.train.step import model_graph
from experiments.convert import from_fla, to_fla
from experiments.lm_small_presets import LM_SMALL_PRESETS, PREFIX
from experiments.presets import PRESETS
from experiments.restored import one_device_trainer, restore_weights
from experiments.run_config import RunConfig, read_run_config
from tests.helpers import fla
from tests.helpers.compare import BOUNDS, assert_close, equal_bits, rms_ratio
from tests.helpers.models import small_config

KINDS = {"attention", "delta_net", "gated_delta_net"}
LENGTH = 150  # more than two chunks


def kinds(run):
    return {mixer.kind for mixer in run.model.layer_pattern}


PAPERS = {name: make() for name, make in PRESETS.items() if re.search("_(340m|1b3)", name)}
RUNS = {name: make() for name, make in LM_SMALL_PRESETS.items()} | PAPERS
OURS = [name for name, run in RUNS.items() if kinds(run) <= KINDS and not run.model.bottleneck]


def test_what_is_convertible():
    assert len([name for name in OURS if name.startswith(PREFIX)]) == 7 + 8
    assert {"deltanet_340m", "deltanet_1b3", "transformer_1b3"} <= {*OURS} and len(OURS) > 20


@pytest.mark.parametrize("name", RUNS)
def test_configs_come_back_and_others_are_refused_by_name(name):
    model, seq_len = RUNS[name].model, RUNS[name].task.seq_len
    if name in OURS:
        written = fla_config(model, seq_len)
        assert written["intermediate_size"] == (
            model.mlp_hidden_size or 256 * -(-(8 * model.d_model // 3) // 256)
        )
        assert written["tie_word_embeddings"] == model.tie_embeddings
        assert written["norm_eps"] == model.norm_eps
        assert differences(model, model_config(written)) == []
    else:
        other = sorted(kinds(RUNS[name]) - KINDS)
        with pytest.raises(ValueError, match=f"^layer_pattern: wanted mixers of .*{other[0]}"):
            fla_config(model, seq_len)


@pytest.mark.parametrize(
    ("mixer", "d_model"),
    [
        (GatedDeltaNetConfig(num_heads=2, head_k_dim=88, head_v_dim=120), 176),
        (DeltaNetConfig(num_heads=1, head_k_dim=61, head_v_dim=115), 896),
        (DeltaNetConfig(num_heads=2, head_k_dim=230, head_v_dim=64), 896),
    ],
)
def test_factors_make_our_sizes_where_fla_cuts_off(mixer, d_model):
    """88 * (120 / 88) is 119.99..., of which FLA takes the whole part."""
    model = small_config(mixer, d_model=d_model)
    heads, k, v = mixer.num_heads, mixer.head_k_dim, mixer.head_v_dim
    assert fla.sizes(fla_config(model, 16)) == (heads, k, v)


def reduced(name):
    """A preset's run of width 16 and as few layers as its pattern has."""
    run = RUNS[PREFIX + name]
    pattern = [mixer.replace(num_heads=2) for mixer in run.model.layer_pattern]
    pattern = [m.replace(window=m.window and 40) if m.kind == "attention" else m for m in pattern]
    size = {"vocab_size": 23, "d_model": 16, "mlp_hidden_size": 40, "num_layers": len(pattern)}
    model = run.model.replace(**size, layer_pattern=tuple(pattern), scan_unroll=1)
    task = run.task.replace(vocab_size=23, seq_len=32, tokenizer_digest="")
    return RunConfig(model, task, run.train.replace(batch_size=1))


@pytest.mark.parametrize("name", ["delta_net", "delta_net_swa", "gated_delta_net"])
def test_a_run_of_the_table_is_fla_s_model_and_comes_back(tmp_path, name):
    run = reduced(name)
    config = fla_config(run.model, run.task.seq_len)
    tensors = {k: np.float32(x) for k, x in fla.random_tensors(config).items()}
    from_fla(fla.write_folder(tmp_path / "hf", config, tensors), tmp_path / "run", {})
    # From here on a run like one that was trained, which knows nothing of FLA.
    (tmp_path / "run" / "fla.json").unlink()
    (tmp_path / "run" / "config.json").write_text(run.to_json())
    to_fla(tmp_path / "run", tmp_path / "back", 2**30)
    assert read_config(tmp_path / "back") == config
    back = load_file(tmp_path / "back" / "model.safetensors")
    assert back.keys() == tensors.keys() and "lm_head.weight" not in back
    assert equal_bits([back[k] for k in tensors], [*tensors.values()])

    _, weights = restore_weights(tmp_path / "run", one_device_trainer(run))
    graph = model_graph(read_run_config(tmp_path / "run").model.replace(compute_dtype="float32"))
    logits = jax.jit(lambda weights, tokens: nnx.merge(graph, weights)(tokens)[0])
    tokens = np.random.default_rng(1).integers(23, size=LENGTH)
    found = logits(weights, jnp.asarray(tokens[None]))[0]
    assert_close(name, found, fla.logits(config, back, tokens), BOUNDS["float32"])
    # Not what the model is, but near it: FLA's default of the norms' epsilon.
    assert config["norm_eps"] != 1e-3
    wrong = fla.logits(config | {"norm_eps": 1e-3}, back, tokens)
    assert rms_ratio(found, wrong) > 10 * BOUNDS["float32"]
