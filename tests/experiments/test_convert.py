# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""FLA's checkpoints in and out: every bit of every tensor, logits, runs that go on, refusals."""

import functools
import json
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from deltanet_jax.fla.config import differences, model_config
from deltanet_jax.fla.folder import Folder, read_config
from deltanet_jax.mixers.delta_net import DeltaNetConfig
from deltanet_jax.mixers.gated_delta_net import GatedDeltaNetConfig
from deltanet_jax.mixers.gla import GLAConfig
from deltanet_jax.train.config import TrainConfig
from deltanet_jax.train.loop import train
from deltanet_jax.train.step import model_graph
from experiments.convert import from_fla, refuse_run_options, to_fla
from experiments.evaluate import evaluate_run
from experiments.restored import one_device_trainer, restore_weights
from experiments.run_config import RunConfig, read_run_config
from experiments.tasks.tokens.task import TokensConfig
from tests.helpers import fla
from tests.helpers.compare import BOUNDS, assert_close, rms_ratio
from tests.helpers.fla import write_folder as write
from tests.helpers.models import small_config

FLAGS = {
    "batch_size": 8,
    "num_steps": 2,
    "seq_len": 8,
    "max_eval_windows": 4,
    "compute_dtype": "float32",
}


NAMES = [n if n != "no_conv" else pytest.param(n, marks=pytest.mark.slow) for n in fla.CONFIGS]


def tensors_of(folder):
    return {name: x for path in folder.glob("*.safetensors") for name, x in load_file(path).items()}


def assert_same_tensors(found, wanted):
    assert found.keys() == wanted.keys()
    for name, x in wanted.items():
        y = found[name]
        assert (y.dtype, y.shape, y.tobytes()) == (x.dtype, x.shape, x.tobytes()), name


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """name -> (its tensors, folder with the model in hf/ and the run in run/), each made once."""

    @functools.cache
    def make(name):
        folder = tmp_path_factory.mktemp(name)
        tensors = fla.random_tensors(fla.CONFIGS[name])
        from_fla(write(folder / "hf", config_as_it_came(name), tensors), folder / "run", FLAGS)
        return tensors, folder

    return make


def config_as_it_came(name):
    return fla.CONFIGS[name] | {"bos_token_id": 1, "architectures": ["AsItCame"]}


@pytest.mark.parametrize("name", NAMES)
def test_in_and_out_gives_every_bit_back(converted, tmp_path, name):
    tensors, folder = converted(name)
    to_fla(folder / "run", tmp_path / "back", max_shard_bytes=2**30)
    assert_same_tensors(load_file(tmp_path / "back" / "model.safetensors"), tensors)
    assert json.loads((tmp_path / "back" / "config.json").read_text()) == config_as_it_came(name)
    assert [p.name for p in tmp_path.iterdir()] == ["back"]
    assert sorted(p.name for p in folder.iterdir()) == ["hf", "run"]


TOKENS = np.random.default_rng(1).integers(fla.SMALL["vocab_size"], size=20)


@pytest.fixture(scope="module")
def our_logits(converted):
    """name -> the converted model's float32 logits of TOKENS."""

    @functools.cache
    def compute(name):
        workdir = converted(name)[1] / "run"
        run = read_run_config(workdir)
        step, weights = restore_weights(workdir, one_device_trainer(run))
        assert step == 0
        graph = model_graph(run.model)
        logits = jax.jit(lambda weights, tokens: nnx.merge(graph, weights)(tokens)[0])
        return logits(weights, jnp.asarray(TOKENS[None]))[0]

    return compute


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_of_the_definition(converted, our_logits, name):
    wanted = fla.logits(fla.CONFIGS[name], converted(name)[0], TOKENS)
    assert our_logits(name).dtype == jnp.float32
    assert_close(name, our_logits(name), wanted, BOUNDS["float32"])


def flipped_taps(tensors):
    return {
        n: np.ascontiguousarray(x[..., ::-1]) if "conv1d" in n else x for n, x in tensors.items()
    }


def swapped_gates(tensors):
    def other(name):
        pairs = {"mlp.gate_proj": "mlp.up_proj", "mlp.up_proj": "mlp.gate_proj"}
        for old, new in pairs.items():
            if old in name:
                return name.replace(old, new)
        return name

    return {name: tensors[other(name)] for name in tensors}


@pytest.mark.parametrize("wrong", [flipped_taps, swapped_gates])
def test_wrong_layouts_are_noticed_by_the_comparison(converted, our_logits, wrong):
    tensors = wrong(converted("delta_net")[0])
    wanted = fla.logits(fla.CONFIGS["delta_net"], tensors, TOKENS)
    assert rms_ratio(our_logits("delta_net"), wanted) > 0.05


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("delta_net", {"norm_eps": 1e-3}),
        ("hybrid", {"allow_neg_eigval": False}),
        ("hybrid", {"qk_activation": "relu"}),
        ("hybrid", {"attn": {"layers": [1], **fla.ATTENTION, "window_size": 6}}),
        ("transformer", {"rope_theta": 120.0}),
    ],
)
def test_options_matter_to_the_comparison(converted, our_logits, name, change):
    wanted = fla.logits(fla.CONFIGS[name] | change, converted(name)[0], TOKENS)
    assert rms_ratio(our_logits(name), wanted) > 100 * BOUNDS["float32"]


def test_shards_old_names_and_a_tied_head_come_back_as_they_were(tmp_path):
    config = fla.CONFIGS["hybrid"]
    tensors = fla.random_tensors(config)
    tensors = {n.replace(".attn.o_norm.", ".attn.norm."): x for n, x in tensors.items()}
    tensors["lm_head.weight"] = tensors["model.embeddings.weight"]
    from_fla(write(tmp_path / "hf", config, tensors), tmp_path / "run", FLAGS)
    to_fla(tmp_path / "run", tmp_path / "back", max_shard_bytes=2000)
    index = json.loads((tmp_path / "back" / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) == len([*tmp_path.glob("back/*.safetensors")]) > 3
    assert index["metadata"]["total_size"] == sum(x.nbytes for x in tensors.values())
    assert_same_tensors(tensors_of(tmp_path / "back"), tensors)
    # Shards are read as one file is.
    from_fla(tmp_path / "back", tmp_path / "again", FLAGS)
    to_fla(tmp_path / "again", tmp_path / "whole", max_shard_bytes=2**30)
    assert_same_tensors(tensors_of(tmp_path / "whole"), tensors)


def test_a_run_of_ours_becomes_a_model_and_a_run_again(converted, tmp_path):
    """Without what is known of where it came from: another config.json, the same model."""
    tensors, folder = converted("hybrid")
    run = shutil.copytree(folder / "run", tmp_path / "run")
    (run / "fla.json").unlink()
    to_fla(run, tmp_path / "back", max_shard_bytes=2**30)
    wanted = {name: x.astype(np.float32) for name, x in tensors.items()}
    assert_same_tensors(tensors_of(tmp_path / "back"), wanted)
    written = read_config(tmp_path / "back")
    assert written["attn"] == {**fla.ATTENTION, "layers": [1], "qkv_bias": False}
    assert differences(read_run_config(run).model, model_config(written)) == []


@pytest.mark.slow
def test_a_converted_run_is_evaluated_and_trained(converted, tmp_path):
    """And gives other numbers after: the steps count from 0, in the dtypes that came."""
    tensors, folder = converted("transformer")
    workdir = shutil.copytree(folder / "run", tmp_path / "run")
    run = read_run_config(workdir)
    assert evaluate_run(workdir)[0]["step"] == 0
    train(run.model, run.train, run.task.make(), workdir, record=run)
    to_fla(workdir, tmp_path / "back", 2**30)
    after = tensors_of(tmp_path / "back")
    assert {n: x.dtype for n, x in after.items()} == {n: x.dtype for n, x in tensors.items()}
    assert after["lm_head.weight"].tobytes() != tensors["lm_head.weight"].tobytes()


@pytest.mark.slow
def test_the_commands(tmp_path):
    config = fla.CONFIGS["transformer"]
    source = write(tmp_path / "hf", config, fla.random_tensors(config))

    def run(module, *arguments):
        command = [sys.executable, "-W", "error", "-m", f"experiments.{module}", *arguments]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    workdir = tmp_path / "run"
    flags = [f"--{name}={value}" for name, value in FLAGS.items()]
    out = run("convert", "--from=fla", f"--input={source}", f"--output={workdir}", *flags)
    lines = out.splitlines()
    assert len(lines) == len(fla.shapes(config)) + 1
    assert "lm_head.weight bfloat16[23, 16] -> head/kernel" in lines
    assert json.loads(run("main", f"--workdir={workdir}"))["loss"] > 0
    out = run("convert", "--from=ours", f"--input={workdir}", f"--output={tmp_path / 'back'}")
    assert out.splitlines()[-1].startswith(f"{len(fla.shapes(config))} tensors, none missing")
    command = [sys.executable, "-m", "experiments.convert", "--from=ours", f"--input={source}"]
    command += [f"--output={tmp_path / 'none'}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr and not (tmp_path / "none").exists()


@pytest.mark.gpu
def test_logits_are_those_of_fla_on_a_gpu():
    """Models of 24 layers that FLA made; the command has the bounds. FLA's warnings are its own."""
    pytest.importorskip("fla", exc_type=ImportError)
    command = [sys.executable, "-m", "experiments.benchmarks.fla_logits"]
    done = subprocess.run([*command, "--kinds=delta_net,gated_deltanet"], capture_output=True)
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith(b"{")]
    assert len(rows) == 2, done.stderr.decode()
    assert done.returncode == 0, rows


def refused(folder, config, tensors, message, flags=FLAGS):
    source = write(folder / "hf", config, tensors)
    before = sorted(folder.rglob("*"))
    with pytest.raises(ValueError, match=message):
        from_fla(source, folder / "run", flags)
    assert sorted(folder.rglob("*")) == before


def test_every_tensor_that_does_not_fit_is_named_and_nothing_is_written(tmp_path):
    config = fla.CONFIGS["delta_net"]
    tensors = fla.random_tensors(config)
    del tensors["model.norm.weight"]
    tensors["model.layers.0.attn.q_proj.bias"] = np.zeros(16, np.float32)
    tensors["model.layers.1.attn.b_proj.weight"] = np.zeros((16, 2), np.float32)
    message = (
        r"^tensors: missing: model\.norm\.weight; "
        r"unexpected: model\.layers\.0\.attn\.q_proj\.bias; "
        r"of another shape: model\.layers\.1\.attn\.b_proj\.weight is \[16, 2\], wanted \[2, 16\]$"
    )
    refused(tmp_path, config, tensors, message)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("delta_net", {"model_type": "mamba"}, "model_type: wanted one of"),
        ("delta_net", {"use_beta": False}, "use_beta: wanted True, got False"),
        ("delta_net", {"expand_k": 0.3}, "expand_k: wanted a factor that makes a whole size"),
        ("delta_net", {"num_heads": 3}, "num_heads: wanted a divisor of 16, got 3"),
        ("delta_net", {"qk_norm": "rms"}, "qk_norm: wanted 'l2' or 'sum', got 'rms'"),
        ("delta_net", {"hidden_act": "powlu"}, "hidden_act: wanted 'swish'"),
        ("delta_net", {"attnres_block_size": 2}, "attnres_block_size: wanted None, got 2"),
        ("delta_net", {"auto_map": {"AutoModel": "x.py"}}, r"not known: \['auto_map'\]"),
        ("delta_net", {"num_hidden_layers": 10**9}, "num_hidden_layers: wanted a whole number"),
        ("delta_net", {"num_hidden_layers": 4000}, "tensors: wanted"),
        ("gated_deltanet", {"num_v_heads": 6}, "num_v_heads: wanted num_heads = 3"),
        ("gated_deltanet", {"output_gate_activation": "sigmoid"}, "output_gate_activation: wanted"),
        ("transformer", {"qk_norm": True}, "qk_norm: wanted False, got True"),
        ("transformer", {"qkv_bias": True}, "qkv_bias: wanted False, got True"),
        ("transformer", {"rope_theta": None}, "rope_theta: wanted a number"),
        (
            "hybrid",
            {"attn": [{"layers": [0], "num_heads": 2}] * 2},
            "layers: wanted each layer once",
        ),
        ("hybrid", {"attn": [{"layers": [0, 0], "num_heads": 2}]}, "layers: wanted different"),
        ("hybrid", {"attn": {"layers": [9], "num_heads": 2}}, "layers: wanted different"),
        ("hybrid", {"attn": {"layers": [0]}}, "num_heads: wanted a whole number"),
        ("hybrid", {"attn": {"layers": [0], "num_heads": 2, "qk_norm": True}}, "not known"),
    ],
)
def test_options_that_we_do_not_have_are_named(tmp_path, name, change, message):
    config = fla.CONFIGS[name]
    refused(tmp_path, config | change, fla.random_tensors(config), message)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"norm_eps": 1e-3}, "^norm_eps was 1e-05, is 0.001: wanted the options of the model"),
        ({"num_heads": 4}, "^layer 0: num_heads was 2, is 4: wanted the options of the model"),
        ({"param_dtype": "bfloat16"}, "^param_dtype: wanted one that holds the folder's tensors"),
        ({"data": ["nowhere.npy"]}, "^data: wanted a .npy file"),
    ],
)
def test_flags_that_do_not_fit_the_model_are_refused(tmp_path, flags, message):
    config = fla.CONFIGS["delta_net"]
    refused(tmp_path, config, fla.random_tensors(config), message, FLAGS | flags)


def test_a_runs_options_do_not_go_out():
    """They would be passed over: the folder has the run's own dtype and context."""
    refuse_run_options({"from": "ours", "param_dtype": None, "data": None})
    for name, value in (("param_dtype", "bfloat16"), ("seq_len", 8), ("layer_pattern", ["gla"])):
        with pytest.raises(ValueError, match=f"^{name}: wanted none with --from=ours, got"):
            refuse_run_options({"from": "ours", name: value})


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    config = fla.CONFIGS["delta_net"]
    source = write(tmp_path / "hf", config, fla.random_tensors(config))
    with pytest.raises(ValueError, match="^output: wanted a folder that does not exist"):
        from_fla(source, source, FLAGS)
    with pytest.raises(ValueError, match="^workdir: wanted the directory of a run"):
        to_fla(tmp_path / "nowhere", tmp_path / "back", 2**30)
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize(
    ("mixer", "change", "message"),
    [
        (GLAConfig(num_heads=2), {}, "layer_pattern: wanted mixers of .* got 'gla'"),
        (GatedDeltaNetConfig(num_heads=2, qk_norm="l1"), {}, "layer 0: qk_norm was 'l1', is 'l2'"),
        (DeltaNetConfig(num_heads=2), {"mlp_hidden_size": 0}, "intermediate_size: wanted"),
        (DeltaNetConfig(num_heads=2), {"bottleneck": True}, "bottleneck was True, is False"),
    ],
)
def test_models_that_fla_does_not_have_are_refused(tmp_path, mixer, change, message):
    model = small_config(mixer, **change)
    run = RunConfig(model=model, task=TokensConfig(vocab_size=32), train=TrainConfig())
    (tmp_path / "config.json").write_text(run.to_json())
    with pytest.raises(ValueError, match=message):
        to_fla(tmp_path, tmp_path / "back", 2**30)
    assert not (tmp_path / "back").exists()


def test_tied_embeddings_beside_another_head_are_refused(tmp_path):
    config = fla.CONFIGS["hybrid"]
    tensors = fla.random_tensors(config)
    tensors["lm_head.weight"] = tensors["model.embeddings.weight"] + ml_dtypes.bfloat16(1)
    refused(tmp_path, config, tensors, "^tie_word_embeddings: wanted lm_head.weight to be")


def test_other_dtypes_are_refused(tmp_path):
    path = write(tmp_path / "hf", {}, {"a": np.zeros(3, np.int8)})
    with pytest.raises(ValueError, match="a: wanted a dtype of .* got I8"):
        Folder(path)
