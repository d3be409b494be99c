# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The flags of the commands (those about text: text/flags.py), defined once, and the pure function
from flags to a config.

A flag left alone keeps the preset's value. Each row below names a flag, its type and where in the
config it goes; tests walk the table, so a flag that reaches nothing cannot stay.
"""

import dataclasses
import math
from typing import Any

from absl import flags

from deltanet_jax.mixers.base import MixerConfig
from deltanet_jax.mixers.registry import MIXERS
from deltanet_jax.model import ModelConfig
from deltanet_jax.train.config import ON_SAVE_ERROR, TrainConfig
from deltanet_jax.train.sweep import Member, grid
from experiments.presets import PRESETS
from experiments.run_config import RunConfig

# What is defined here is the command's own: its --help shows it.
flags.disclaim_key_flags()

# Flag -> (type, help). The group says which part of the config takes it.
MODEL = {
    "d_model": ("int", "width of the residual stream"),
    "num_layers": ("int", "residual blocks, a multiple of the layer pattern's length"),
    "mlp_hidden_size": ("int", "width of the SwiGLU layers; 0 leaves them out"),
    "identity_mlp": ("bool", "with --mlp_hidden_size=0: x + norm(x) in the SwiGLU layers' place"),
    "tie_embeddings": ("bool", "use the transposed embedding as head"),
    "bottleneck": ("bool", "predict from the last position's vector alone"),
    "embed_dropout": ("float", "dropout on embeddings in training"),
    "init_std": ("float", "standard deviation of initial weights"),
    "norm": ("str", "of the residual stream: rms or, with a bias, layer"),
    "norm_eps": ("float", "epsilon of every norm"),
    "param_dtype": ("str", "dtype of stored weights"),
    "compute_dtype": ("str", "dtype of activations"),
    "remat": ("str", "what a layer keeps for backward: none (all), products, arguments, full"),
    "scan_unroll": ("int", "periods laid out in each step of the scan over depth; all: fastest"),
}
MIXER = {  # given to every mixer of the pattern that has the option
    "num_heads": ("int", "heads"),
    "head_k_dim": ("int", "key size of a head"),
    "head_v_dim": ("int", "value size of a head"),
    "head_dim": ("int", "head size of softmax attention"),
    "num_kv_heads": ("int", "key-value heads of softmax attention"),
    "window": ("int", "sliding window of softmax attention, in tokens"),
    "rope_base": ("float", "base of rotary frequencies of softmax attention and RetNet"),
    "conv_size": ("int", "width of short convolutions; 0 leaves them out"),
    "qk_activation": ("str", "activation of queries and keys of the DeltaNets"),
    "qk_norm": ("str", "norm of queries and keys of the DeltaNets: l2 or l1"),
    "allow_neg_eigval": ("bool", "beta of the DeltaNets in (0, 2)"),
    "output_gate": ("bool", "gate the read-out of the DeltaNets"),
    "num_householder": ("int", "steps of the delta rule a token (delta_product)"),
    "decay_rank": ("int", "rank of the map from input to decays (gla, kda)"),
    "decay_temperature": ("float", "the larger, the slower the decay at first (gla)"),
    "expand": ("int", "channels as a multiple of d_model (mamba)"),
    "state_size": ("int", "numbers that a channel remembers (mamba)"),
    "time_step_rank": ("int", "rank of the map from input to time steps (mamba)"),
    "widening": ("int", "hidden width as a multiple of d_model (rwkv4_channel_mix)"),
    "filter_length": ("int", "tokens over which filters decay (hyena)"),
    "filter_hidden": ("int", "width of the filters' network (hyena)"),
    "filter_bands": ("int", "frequencies of the filters' positional features (hyena)"),
    "feature_map": ("str", "feature map of additive linear attention"),
    "normalize": ("bool", "normaliser of additive linear attention"),
    "output_norm": ("bool", "RMSNorm on additive linear attention's read-out"),
    "chunk_size": ("int", "tokens a chunk of the chunkwise form"),
    "implementation": (
        "str",
        "of the delta rule: reference, xla, pallas, triton (gated: not triton; kda: the first two)",
    ),
    "residuals": ("str", "of the delta rule's kernels: recompute (little memory), save (fast)"),
}
TASK = {
    "seq_len": ("int", "tokens a sequence"),
    "data_seed": ("int", "seed of the data"),
    "vocab_size": ("int", "ids of a synthetic task, or of tokens"),
    "num_kv_pairs": ("int", "pairs to recall (mqar)"),
    "num_train_examples": ("int", "examples of an epoch of a synthetic task"),
    "num_eval_examples": ("int", "held-out examples of a synthetic task"),
    "power_a": ("float", "the smaller, the sooner the queries come (mqar)"),
    "random_non_queries": ("bool", "random ids between queries (mqar)"),
    "problem": ("str", "which of the problems (mad, state_tracking)"),
    "num_needles": ("int", "key-value pairs in a haystack (needle)"),
    "frac_noise": ("float", "share of noise pairs (mad)"),
    "num_tokens_to_copy": ("int", "ids to copy (mad)"),
    "data": (
        "list",
        "files and folders of text or JSONL (language_modeling); a folder of prepare_data, or .npy "
        "files of ids (tokens)",
    ),
    "document_start": ("int", "id before every document of .npy files; -1 is none (tokens)"),
    "concatenate": ("bool", "no boundaries between documents (tokens)"),
    "tokenizer_digest": ("str", "SHA-256 of the tokenizer that data must be made with (tokens)"),
    "eval_fraction": ("float", "share of the text held out (language_modeling, tokens)"),
    "max_eval_windows": ("int", "windows of an evaluation; 0 is all (language_modeling, tokens)"),
}
TRAIN = {
    "num_steps": ("int", "optimiser steps in all"),
    "batch_size": ("int", "sequences an optimiser step, over all devices"),
    "accumulation_steps": ("int", "parts of a batch that go through one after the other"),
    "loss_chunk_tokens": ("int", "tokens of a device whose logits are in memory at a time"),
    "seed": ("int", "seed of weights and dropout"),
    "log_every_steps": ("int", "steps between rows of metrics"),
    "eval_every_steps": ("int", "steps between evaluations; 0 is the end only"),
    "checkpoint_every_steps": ("int", "steps between checkpoints"),
    "keep_checkpoints": ("int", "newest checkpoints kept"),
    "keep_every_steps": ("int", "checkpoints of its multiples are kept for good; 0 keeps none"),
    "max_skipped_steps": ("int", "steps in a row with NaN or Inf after which the run stops"),
    "spike_sigmas": ("float", "skip steps whose loss is so many deviations too high; 0 is never"),
}
OPTIMIZER = {
    "learning_rate": ("float", "peak learning rate"),
    "min_learning_rate": ("float", "rate at the start of the warm-up and the end of the cosine"),
    "schedule": ("str", "cosine, constant, or wsd (constant, then a linear decay)"),
    "warmup_steps": ("int", "steps of linear warm-up"),
    "decay_steps": ("int", "steps of the linear decay of wsd"),
    "weight_decay": ("float", "decoupled weight decay"),
    "b1": ("float", "Adam's first decay"),
    "b2": ("float", "Adam's second decay"),
    "eps": ("float", "Adam's epsilon"),
    "grad_clip_norm": ("float", "largest global norm of the gradient"),
}
MESH = {
    "mesh_data": ("int", "replicas of the weights; -1 is all devices left"),
    "mesh_fsdp": ("int", "parts the weights are cut into, each with its part of the batch"),
    "mesh_tensor": ("int", "parts that heads and hidden features are cut into"),
    "mesh_sequence": ("int", "pieces that every sequence is cut into"),
}
GROUPS = {
    "model": MODEL,
    "mixer": MIXER,
    "task": TASK,
    "train": TRAIN,
    "optimizer": OPTIMIZER,
    "mesh": MESH,
}

# Flag -> (type of its values, help). Combined in every way.
SWEEP = {
    "learning_rates": (float, "peak learning rates"),
    "weight_decays": (float, "weight decays"),
    "seeds": (int, "seeds of weights and dropout"),
}

# Options of a run that a sweep has not, and why.
NOT_IN_SWEEPS = {
    "log_every_steps": "logs evaluations alone",
    "keep_checkpoints": "keeps its newest checkpoint alone",
    "keep_every_steps": "keeps its newest checkpoint alone",
}

_DEFINE = {
    "int": flags.DEFINE_integer,
    "float": flags.DEFINE_float,
    "str": flags.DEFINE_string,
    "bool": flags.DEFINE_bool,
    "list": flags.DEFINE_list,
}


def define_workdir(required: bool = True) -> flags.FlagHolder:
    """--workdir, the directory of a run."""
    return flags.DEFINE_string("workdir", None, "directory of the run", required=required)


def define_preset(required: bool = True) -> None:
    """--preset, the run that options change."""
    flags.DEFINE_enum("preset", None, sorted(PRESETS), "the run to start from", required=required)


def define_run_flags() -> None:
    """Every option of a run."""
    flags.DEFINE_list("layer_pattern", None, f"mixers of one period, of {sorted(MIXERS)}")
    for group in GROUPS.values():
        for name, (kind, text) in group.items():
            _DEFINE[kind](name, None, text)


def define_compilation_flags() -> None:
    """How programs are compiled."""
    flags.DEFINE_bool("deterministic", False, "the same bits in every process, on GPUs too; slower")
    flags.DEFINE_string(
        "compilation_cache_dir",
        "~/.cache/deltanet_jax",
        "where compiled programs are kept between runs; empty keeps none",
    )


def define_platform_flags() -> None:
    """What a run asks of its machines, and what it shows of itself; none of it is in its config."""
    define_compilation_flags()
    flags.DEFINE_integer("dry_run", 0, "plan for so many devices, print the plan and stop", 0)
    flags.DEFINE_float("device_memory_gib", None, "memory that a planned run must fit in")
    flags.DEFINE_list("profile_steps", None, "FIRST,LAST steps to trace, into WORKDIR/profile")
    flags.DEFINE_string("wandb_project", None, "also log to this Weights & Biases project")
    flags.DEFINE_float("hang_seconds", 1800.0, "end a run that stands still; 0 never does", 0.0)
    flags.DEFINE_enum(
        "on_save_error", "fail", ON_SAVE_ERROR, "a save that fails: end, or try later"
    )
    flags.DEFINE_bool("allow_data_change", False, "resume although the task gives other batches")
    flags.DEFINE_string(
        "distributed", None, 'several processes as one run: "auto" or HOST:PORT,PROCESSES,INDEX'
    )
    flags.DEFINE_integer(
        "heartbeat_seconds", 100, "with --distributed: silence after which the others end", 1
    )


def define_sample_flags() -> None:
    """How language models are sampled."""
    flags.DEFINE_string("prompt", "", "text to continue; empty starts a document")
    flags.DEFINE_integer("sample_tokens", 300, "tokens to sample; 0 samples none", lower_bound=0)
    flags.DEFINE_float("temperature", 0.8, "of sampling; 0 is greedy", lower_bound=0.0)
    flags.DEFINE_integer("sample_seed", 0, "seed of sampling", lower_bound=0)


def define_tokenizer(required: bool = False) -> None:
    """--tokenizer, of commands that take text; bytes by default for byte-level runs."""
    flags.DEFINE_string(
        "tokenizer",
        None,
        "bytes, a SentencePiece file *.model, a folder of GPT-2's files, or a file *.tiktoken",
        required=required,
    )


def define_generate_flags() -> None:
    """The flags of experiments.generate."""
    define_sample_flags()
    define_tokenizer()
    flags.DEFINE_integer("top_k", 0, "only the k most likely tokens; 0 is all", lower_bound=0)
    flags.DEFINE_float("top_p", 1.0, "only the most likely tokens of this probability together")
    flags.DEFINE_multi_string("stop", [], "text before which to end; may be given several times")
    flags.DEFINE_string("prompts_file", None, "prompts, one a line, or JSON lines with a prompt")
    flags.DEFINE_string("output_file", None, "where completions of --prompts_file go, else stdout")
    flags.DEFINE_integer("rows", 32, "prompts of --prompts_file at a time", lower_bound=1)


def define_evaluation_flags() -> None:
    """The flags of experiments.evaluate beside --workdir and those of samples."""
    define_tokenizer()
    flags.DEFINE_list("tasks", None, "of experiments/evaluation/tasks.py, instead of the run's own")
    flags.DEFINE_string("data", None, "folder with the tasks' files")
    flags.DEFINE_integer("limit", None, "only the first documents of each task", lower_bound=1)
    flags.DEFINE_integer("max_length", 2048, "tokens that a prediction may see", lower_bound=1)
    flags.DEFINE_integer("batch_tokens", 16_384, "tokens of a batch of requests", lower_bound=1)
    flags.DEFINE_bool("harness", False, "--tasks are lm-evaluation-harness's, which runs them")
    flags.DEFINE_string("include_path", None, "folder of further tasks for --harness")


def define_sweep_flags() -> None:
    """The grid of experiments.sweep."""
    for name, (_, what) in SWEEP.items():
        flags.DEFINE_list(name, None, f"{what} of the grid; the run's own by default")
    flags.DEFINE_float(
        "stop_score", None, "end once one learning rate and weight decay reached it, on all seeds"
    )
    flags.DEFINE_integer("members_at_once", 0, "runs side by side; 0 is all", lower_bound=0)


def define_convert_flags() -> None:
    """The flags of experiments.convert, beside a run's options."""
    flags.DEFINE_enum("from", None, ["fla", "ours"], "what --input holds", required=True)
    flags.DEFINE_string("input", None, "folder of the model, or run, to read", required=True)
    flags.DEFINE_string("output", None, "folder of the run, or model, to write", required=True)
    flags.DEFINE_float("max_shard_gib", 5.0, "largest safetensors file to write", lower_bound=1e-6)


def define_demo_flags() -> None:
    """The flags of experiments.demo."""
    flags.DEFINE_string("output_dir", "runs/demo", "folder of the demonstrations")


def define_compare_flags() -> None:
    """The flags of experiments.compare."""
    flags.DEFINE_string("output_dir", "runs/compare", "where table, picture and record go")
    flags.DEFINE_list("lengths", ["256", "1024", "4096"], "sequence lengths")
    flags.DEFINE_list("head_dims", ["32", "64", "128"], "head sizes, K = V")
    flags.DEFINE_integer("heads", 4, "heads", lower_bound=1)
    flags.DEFINE_integer("repetitions", 3, "timed calls of each", lower_bound=1)


def define_drift_flags() -> None:
    """The flags of experiments.drift."""
    flags.DEFINE_list("tokens", ["1024", "32768", "1048576"], "after which states are compared")
    flags.DEFINE_string("record", "", "file of the record; empty records nothing")


def define_faults_flags() -> None:
    """The flags of experiments.faults.run."""
    flags.DEFINE_list("faults", None, "kinds of faults to cause; all by default")
    flags.DEFINE_integer("kills", 100, "runs killed at random moments", 1)
    flags.DEFINE_integer("others", 25, "signals, full disks, ... each; a quarter of slow kinds", 1)
    flags.DEFINE_integer("flips", 200, "bits flipped", lower_bound=1)
    flags.DEFINE_integer("files", 10_000, "hostile files read; a tenth as many calls, configs", 1)
    flags.DEFINE_integer("at_once", 2, "kinds of faults that are caused side by side", 1)
    flags.DEFINE_integer("seed", 0, "of moments, bits and files", lower_bound=0)
    flags.DEFINE_string("record_dir", "", "folder of record.json; empty records nothing")


def run_config_from_flags(values: dict[str, Any], base: RunConfig | None = None) -> RunConfig:
    """The run that flag values describe; None is "as in `base`", by default the preset.

    Raises:
        ValueError: an impossible value; the message starts with the flag's name.
    """
    given = {k: v for k, v in values.items() if v is not None}

    def of(group: str) -> dict[str, Any]:
        return {k: given[k] for k in GROUPS[group] if k in given}

    config = PRESETS[given["preset"]]() if base is None else base
    task_values = of("task")
    known = {f.name for f in dataclasses.fields(config.task)}
    for name in task_values:
        if name not in known:
            raise ValueError(f"{name}: the task {config.task.kind!r} has no such option")
    if "data" in task_values:
        task_values["data"] = tuple(task_values["data"])
    task = config.task.replace(**task_values)

    pattern = config.model.layer_pattern
    if "layer_pattern" in given:
        pattern = _pattern(tuple(given["layer_pattern"]), pattern)
    pattern = _with_options(pattern, of("mixer"))
    model: ModelConfig = config.model.replace(
        vocab_size=task.vocab_size, layer_pattern=pattern, **of("model")
    )
    mesh = {k.removeprefix("mesh_"): v for k, v in of("mesh").items()}
    train: TrainConfig = config.train.replace(
        optimizer=config.train.optimizer.replace(**of("optimizer")),
        mesh=config.train.mesh.replace(**mesh),
        **of("train"),
    )
    return RunConfig(model=model, task=task, train=train)


def members_from_flags(values: dict[str, Any], config: RunConfig) -> list[Member]:
    """The runs of a sweep: every combination of the lists in SWEEP, by default `config`'s values.

    Raises:
        ValueError: a list that holds something else, or the same twice; the message starts with
            the flag's name; or an option that a sweep has not.
    """
    for name, why in NOT_IN_SWEEPS.items():
        if values.get(name) is not None:
            raise ValueError(f"{name}: wanted none, as a sweep {why}, got {values[name]}")
    optimizer, seed = config.train.optimizer, config.train.seed
    lists = [[optimizer.learning_rate], [optimizer.weight_decay], [seed]]
    for i, (name, (kind, _)) in enumerate(SWEEP.items()):
        if values.get(name) is None:
            continue
        given, own = ",".join(values[name]), name.removesuffix("s")
        if values.get(own) is not None:
            raise ValueError(f"{own}: wanted either --{own} or --{name}, got both")
        try:
            lists[i] = [kind(value) for value in values[name]]
        except ValueError:
            raise ValueError(f"{name}: wanted numbers ({kind.__name__}), got {given}") from None
        if not lists[i] or len(set(lists[i])) < len(lists[i]):
            raise ValueError(f"{name}: wanted different numbers, at least one, got {given}")
        if not all(0 <= value < math.inf for value in lists[i]):
            raise ValueError(f"{name}: wanted numbers of at least 0, got {given}")
    least = config.train.optimizer.min_learning_rate
    if not min(lists[0]) >= least:
        raise ValueError(
            f"learning_rates: wanted at least min_learning_rate = {least}, got {min(lists[0])}"
        )
    return grid(*lists)


def _pattern(kinds: tuple[str, ...], old: tuple[MixerConfig, ...]) -> tuple[MixerConfig, ...]:
    """Mixers by kind: the preset's where it has one of the kind, else the kind's defaults."""
    for kind in kinds:
        if kind not in MIXERS:
            raise ValueError(f"layer_pattern: wanted mixers of {sorted(MIXERS)}, got {kind!r}")
    known = {mixer.kind: mixer for mixer in old}
    heads = getattr(old[0], "num_heads", None)

    def default(kind: str) -> MixerConfig:
        config = MIXERS[kind][0]()
        own = getattr(config, "num_heads", None)  # None: no heads, or as many as channels
        return config if None in (own, heads) else config.replace(num_heads=heads)

    return tuple(known.get(kind) or default(kind) for kind in kinds)


def _with_options(
    pattern: tuple[MixerConfig, ...], options: dict[str, Any]
) -> tuple[MixerConfig, ...]:
    names = [{f.name for f in dataclasses.fields(mixer)} for mixer in pattern]
    for option in options:
        if not any(option in known for known in names):
            kinds = sorted({mixer.kind for mixer in pattern})
            raise ValueError(f"{option}: no mixer of {kinds} has such an option")
    return tuple(
        mixer.replace(**{k: v for k, v in options.items() if k in known})
        for mixer, known in zip(pattern, names, strict=True)
    )


def whole_numbers(name: str, values: list[str]) -> list[int]:
    """What a list flag holds. Raises ValueError unless it is numbers of at least 1."""
    if not values or not all(v.isdecimal() and int(v) > 0 for v in values):
        raise ValueError(f"{name}: wanted positive whole numbers, got {','.join(values)!r}")
    return [int(v) for v in values]


def profile_steps_from_flag(value: list[str] | None) -> tuple[int, int] | None:
    """(first, last) step to trace. Raises ValueError if `value` is no such pair."""
    if value is None:
        return None
    try:
        first, last = (int(step) for step in value)
    except ValueError:
        raise ValueError(f"profile_steps: wanted FIRST,LAST, got {','.join(value)}") from None
    if not 1 <= first <= last:
        raise ValueError(f"profile_steps: wanted 1 <= FIRST <= LAST, got {first},{last}")
    return first, last


def explain(error: Exception) -> str:
    """The message for users: names the flag as they typed it."""
    text = str(error)
    name = text.split(":", 1)[0]
    return f"--{text}" if name in flags.FLAGS else text
