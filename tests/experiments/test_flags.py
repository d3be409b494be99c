# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Every flag reaches the config; unknown or impossible values are refused with the flag's name."""

import importlib
import re
import subprocess
import sys
import types
from pathlib import Path

import jax
import pytest
from flax import nnx
from jax.sharding import AbstractMesh

from deltanet_jax.model import LanguageModel
from deltanet_jax.sharding import MESH_AXES, check_batch_size, weight_shardings
from experiments import command, main
from experiments.distributed import start
from experiments.dry_run import explained_out_of_memory, report
from experiments.flags import GROUPS, run_config_from_flags, whole_numbers
from experiments.presets import PRESETS

SLOW = pytest.mark.slow
# A value unlike any preset's for each flag, and the preset on which it has an effect.
MQAR, LINEAR = "mqar/small-delta_net", "mqar/small-linear_attention"
MAD = "mad/in_context_recall"
TEXT, HYBRID = "language_modeling/small", "language_modeling/small-hybrid"
VALUES = {
    "d_model": (MQAR, 48),
    "num_layers": (MQAR, 6),
    "mlp_hidden_size": (MQAR, 40),
    "identity_mlp": ("mqar/t512-d64", True),
    "tie_embeddings": (MQAR, True),
    "bottleneck": (MQAR, True),
    "embed_dropout": (MQAR, 0.25),
    "init_std": (MQAR, 0.03),
    "norm": (MQAR, "layer"),
    "norm_eps": (MQAR, 1e-5),
    "param_dtype": (MQAR, "bfloat16"),
    "compute_dtype": (MQAR, "bfloat16"),
    "remat": (MQAR, "products"),
    "scan_unroll": (MQAR, 2),
    "num_heads": (MQAR, 4),
    "head_k_dim": (MQAR, 24),
    "head_v_dim": (MQAR, 24),
    "head_dim": (HYBRID, 32),
    "num_kv_heads": (HYBRID, 1),
    "window": (HYBRID, 17),
    "rope_base": (HYBRID, 500.0),
    "conv_size": (MQAR, 3),
    "qk_activation": (MQAR, "relu"),
    "qk_norm": (MQAR, "l1"),
    "allow_neg_eigval": (MQAR, True),
    "output_gate": (MQAR, True),
    "num_householder": (MQAR, 3),
    "decay_rank": (MQAR, 5),
    "decay_temperature": (MQAR, 4.0),
    "expand": (MQAR, 3),
    "state_size": (MQAR, 5),
    "time_step_rank": (MQAR, 6),
    "widening": (MQAR, 3),
    "filter_length": (MQAR, 99),
    "filter_hidden": (MQAR, 32),
    "filter_bands": (MQAR, 3),
    "feature_map": (LINEAR, "relu"),
    "normalize": (LINEAR, False),
    "output_norm": (LINEAR, True),
    "chunk_size": (MQAR, 32),
    "implementation": (MQAR, "reference"),
    "residuals": (MQAR, "save"),
    "seq_len": (MQAR, 128),
    "data_seed": (MQAR, 9),
    "vocab_size": (MQAR, 256),
    "num_kv_pairs": (MQAR, 5),
    "num_train_examples": (MQAR, 77),
    "num_eval_examples": (MQAR, 78),
    "power_a": (MQAR, 0.5),
    "random_non_queries": (MQAR, True),
    "problem": (MAD, "memorization"),
    "num_needles": ("needle/t128", 7),
    "frac_noise": (MAD, 0.7),
    "num_tokens_to_copy": (MAD, 5),
    "data": (TEXT, ["some/file.txt", "some/folder"]),
    "document_start": ("deltanet_340m", 1),
    "concatenate": ("deltanet_340m", False),
    "tokenizer_digest": ("deltanet_340m", "0123"),
    "eval_fraction": (TEXT, 0.2),
    "max_eval_windows": (TEXT, 9),
    "num_steps": (MQAR, 3000),
    "batch_size": (MQAR, 8),
    "accumulation_steps": (MQAR, 2),
    "loss_chunk_tokens": (MQAR, 100),
    "seed": (MQAR, 5),
    "log_every_steps": (MQAR, 3),
    "eval_every_steps": (MQAR, 4),
    "checkpoint_every_steps": (MQAR, 6),
    "keep_checkpoints": (MQAR, 7),
    "keep_every_steps": (MQAR, 50),
    "max_skipped_steps": (MQAR, 3),
    "spike_sigmas": (MQAR, 6.0),
    "learning_rate": (MQAR, 0.5),
    "min_learning_rate": (MQAR, 1e-5),
    "schedule": (MQAR, "constant"),
    "warmup_steps": (MQAR, 2),
    "decay_steps": (MQAR, 3),
    "weight_decay": (MQAR, 0.3),
    "b1": (MQAR, 0.5),
    "b2": (MQAR, 0.5),
    "eps": (MQAR, 1e-6),
    "grad_clip_norm": (MQAR, 0.5),
    "mesh_data": (MQAR, 2),
    "mesh_fsdp": (MQAR, 2),
    "mesh_tensor": (MQAR, 2),
    "mesh_sequence": (MQAR, 2),
}
# Needed beside a flag for the whole to be possible.
TOGETHER = {
    "document_start": {"concatenate": False},
    "feature_map": {"normalize": False},
    "decay_steps": {"schedule": "wsd", "decay_steps": 1},
    "num_householder": {"layer_pattern": ["delta_product"]},
    **{name: {"layer_pattern": ["mamba"]} for name in ("expand", "state_size", "time_step_rank")},
    **{f"filter_{name}": {"layer_pattern": ["hyena"]} for name in ("length", "hidden", "bands")},
    "widening": {"layer_pattern": ["rwkv4_channel_mix"]},
    "decay_rank": {"layer_pattern": ["gla"]},
    "decay_temperature": {"layer_pattern": ["gla"]},
}


def flat(data, where=""):
    if isinstance(data, dict):
        return {k: v for key, x in data.items() for k, v in flat(x, f"{where}.{key}").items()}
    if isinstance(data, list) and data and isinstance(data[0], dict):
        return {k: v for i, x in enumerate(data) for k, v in flat(x, f"{where}.{i}").items()}
    return {where: data}


def test_every_flag_is_tried():
    assert set(VALUES) == {name for group in GROUPS.values() for name in group}


@pytest.mark.parametrize("name", VALUES)
def test_flag_reaches_the_config_and_nothing_else(name):
    preset, value = VALUES[name]
    extra = TOGETHER.get(name, {})
    before = flat(run_config_from_flags({"preset": preset, **extra}).to_dict())
    after = flat(run_config_from_flags({"preset": preset, **extra, name: value}).to_dict())
    changed = {k for k in after if after[k] != before.get(k)}
    field = name.removeprefix("mesh_")
    wanted = {k for k in after if k.rsplit(".", 1)[1] == field}
    assert changed and changed <= wanted
    assert all(after[k] == value for k in changed)


def test_layer_pattern_keeps_the_presets_options_for_the_mixers_it_has():
    config = run_config_from_flags(
        {"preset": HYBRID, "layer_pattern": ["attention", "linear_attention"], "conv_size": 2}
    )
    attention, linear = config.model.layer_pattern
    assert attention == PRESETS[HYBRID]().model.layer_pattern[1]
    assert (linear.kind, linear.num_heads, linear.conv_size) == ("linear_attention", 2, 2)


def test_presets_alone_are_what_they_say():
    for name, preset in PRESETS.items():
        assert run_config_from_flags({"preset": name}) == preset(), name


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"preset": TEXT, "num_kv_pairs": 3}, "^num_kv_pairs: the task 'language_modeling' has no"),
        ({"preset": MQAR, "window": 3}, r"^window: no mixer of \['delta_net'\] has such an option"),
        ({"preset": MQAR, "layer_pattern": ["mamba7"]}, "^layer_pattern: wanted mixers of"),
        ({"preset": MQAR, "num_steps": 0}, "^num_steps: wanted at least 1, got 0"),
        ({"preset": MQAR, "qk_norm": "l3"}, "^qk_norm: wanted one of"),
        ({"preset": MQAR, "mesh_tensor": 0}, "^mesh_tensor: wanted at least 1, got 0"),
        ({"preset": MQAR, "num_kv_pairs": 99}, "^vocab_size: wanted an even number with at least"),
        ({"preset": MQAR, "norm": "batch"}, "^norm: wanted one of"),
        ({"preset": TEXT, "identity_mlp": True}, "^identity_mlp: wanted mlp_hidden_size 0 with it"),
        ({"preset": MQAR, "batch_size": -1}, "^batch_size: wanted at least 1, got -1"),
    ],
)
def test_impossible_values_name_the_flag(values, message):
    with pytest.raises(ValueError, match=message):
        run_config_from_flags(values)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        # One of each place that refuses: absl, the configs (also above), the model, the devices.
        (["--num_step=3"], "Unknown command line flag 'num_step'"),
        pytest.param(["--num_steps=many"], "flag --num_steps=many: invalid literal", marks=SLOW),
        pytest.param(["--num_steps=-1"], "error: --num_steps: wanted at least 1, got", marks=SLOW),
        pytest.param(["--num_heads=7"], "error: --head_k_dim: wanted a size, or num", marks=SLOW),
        (["--mesh_tensor=3"], "error: --mesh_data: wanted mesh_data * mesh_fsdp * mesh_tensor"),
    ],
)
def test_the_command_refuses_before_any_work(tmp_path, arguments, message):
    command = [sys.executable, "-m", "experiments.main", f"--preset={MQAR}"]
    workdir = tmp_path / "run"
    done = subprocess.run(
        [*command, f"--workdir={workdir}", *arguments], capture_output=True, text=True
    )
    assert done.returncode != 0
    assert message in done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    assert not workdir.exists()


def test_what_is_no_flag_is_refused(monkeypatch):
    """Abseil passes it over: of `--data a b` the run would read a alone."""
    ran, line = [], ["main"]
    monkeypatch.setattr(command.app, "run", lambda main: main(line))
    command.run(ran.append)
    line += ["b", "c"]
    with pytest.raises(SystemExit, match="^error: wanted flags alone, .*=value, got 'b c'$"):
        command.run(ran.append)
    assert len(ran) == 1


def test_a_flag_that_is_no_number_is_refused(monkeypatch):
    """NaN is beyond no bound of Abseil's: a run with --hang_seconds=nan ended after its start."""
    values = {"preset": None, "data": ["a"], "hang_seconds": float("nan")}
    parsed = {name: types.SimpleNamespace(value=value) for name, value in values.items()}
    monkeypatch.setattr(command.flags, "FLAGS", parsed)
    monkeypatch.setattr(command.app, "run", lambda main: main(["main"]))
    with pytest.raises(SystemExit, match="^error: --hang_seconds: wanted a number, got nan$"):
        command.run(print)


def test_help_shows_the_flags_of_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "experiments.main", "--help"], capture_output=True, text=True
    )
    for name in (*VALUES, "workdir", "preset", "prompt", "dry_run"):
        assert re.search(rf"^  --(\[no\])?{name}:", done.stdout, re.MULTILINE), name


@pytest.mark.parametrize(("name", "flag"), [("drift", "tokens"), ("benchmarks.save", "megabytes")])
def test_lists_of_numbers_name_the_flag(monkeypatch, name, flag):
    module = importlib.import_module(f"experiments.{name}")
    monkeypatch.setattr(module.flags, "FLAGS", types.SimpleNamespace(**{flag: ["9", "x"]}))
    monkeypatch.setattr(module, "explain", str)
    with pytest.raises(SystemExit, match=f"error: {flag}: wanted positive whole numbers, got '9,x"):
        module.main([])
    assert whole_numbers("tokens", ["9", "10"]) == [9, 10]


def test_device_memory_without_a_plan_is_refused(monkeypatch):
    values = types.SimpleNamespace(workdir="run", dry_run=0, device_memory_gib=80.0)
    monkeypatch.setattr(main.flags, "FLAGS", values)
    monkeypatch.setattr(main, "explain", str)
    with pytest.raises(SystemExit, match="^error: device_memory_gib: wanted --dry_run with it"):
        main.main([])


@pytest.mark.parametrize("value", ["yes", "host,2,0", "host:1,2", "host:1,2,2", "host:1,two,0"])
def test_distributed_refuses_what_names_no_processes(value):
    with pytest.raises(ValueError, match="^distributed: wanted .auto. or .HOST:PORT,PROCESSES,IN"):
        start(value)


def test_dry_run_plans_for_devices_that_are_not_here(tmp_path):
    """The 1.2B-parameter plan below 60 s on a CPU: counts, parts, memory, refusal."""
    command = [sys.executable, "-m", "experiments.main", "--preset=language_modeling/small"]
    command += ["--dry_run=8", "--mesh_fsdp=8", "--d_model=2048", "--num_heads=16", "--remat=full"]
    command += ["--num_layers=24", f"--workdir={tmp_path / 'run'}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("1,235,129,344 parameters")
    assert "period/0/mlp/up_proj/kernel | [24, 2048, 5632] float32 | [24, 256, 5632]" in done.stdout
    weights = 4 * 1_235_129_344 / 8 / 2**30  # float32, an eighth; norms whole, but small
    assert f"weights {weights:.2f} GiB" in done.stdout
    assert f"optimizer {2 * weights:.2f} GiB" in done.stdout
    assert not (tmp_path / "run").exists()


def test_the_run_in_the_launch_file_fits_its_devices():
    root = Path(__file__).parents[2]
    text = (root / "experiments" / "launch" / "jobset.yaml").read_text()
    values = dict(re.findall(r"--(\w+)=(\S+)", text))
    (pods,), (hosts,), (gpus,) = (
        map(int, re.findall(pattern, text))
        for pattern in (r"parallelism: (\d+)", r'value: "(\d+)"', r"nvidia.com/gpu: (\d+)")
    )
    assert pods == hosts and hosts * gpus == int(values["mesh_fsdp"])
    config = run_config_from_flags({"preset": values["preset"], "data": [values["data"]]})
    mesh = AbstractMesh((1, hosts * gpus, 1, 1), MESH_AXES)
    check_batch_size(config.train.batch_size, config.train.accumulation_steps, mesh)
    model = nnx.eval_shape(lambda: LanguageModel(config.model, rngs=nnx.Rngs(0)))
    weight_shardings(nnx.to_pure_dict(nnx.state(model)), mesh)


def test_dry_run_refuses_what_does_not_fit():
    config = run_config_from_flags({"preset": MQAR})
    assert report(config, 1.0).startswith(report(config, None))
    with pytest.raises(ValueError, match=r"^device_memory_gib: the run needs .* got 0.001; weigh"):
        report(config, 0.001)
    with pytest.raises(ValueError, match="^head_k_dim: wanted a size, or num_heads dividing the"):
        report(run_config_from_flags({"preset": MQAR, "num_heads": 7}), None)


def test_memory_that_runs_out_is_explained():
    """With the run's estimate; other errors of the device stay what they are."""
    config = PRESETS[MQAR]()
    with (
        pytest.raises(
            ValueError, match=r"^batch_size: device memory ran out; the run needs about \d"
        ),
        explained_out_of_memory(config),
    ):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.")
    with (
        pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"),
        explained_out_of_memory(config),
    ):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")
