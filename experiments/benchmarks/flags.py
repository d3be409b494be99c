# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The flags of the benchmarks; those of the other commands are in experiments/flags.py."""

from absl import flags

from deltanet_jax.mixers.registry import MIXERS
from experiments.flags import MESH, MODEL

# What is defined here is the command's own: its --help shows it.
flags.disclaim_key_flags()


def define_benchmark_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """The flags of experiments.benchmarks.run."""
    shapes = "like B16T2048H16K128V128; some of the axes choose among the defaults"
    flags.DEFINE_list("op", ["delta_rule"], "operators to time", values)
    flags.DEFINE_list("shapes", [], shapes, values)
    flags.DEFINE_list(
        "modes", None, "forward, vjp, forward_and_vjp; the operator's by default", values
    )
    flags.DEFINE_list("peers", None, "peers beside; all that can be imported by default", values)
    flags.DEFINE_integer("repetitions", 50, "timed calls of each", 1, flag_values=values)
    flags.DEFINE_integer(
        "compile_jobs",
        0,
        "programs made at a time, before timing; 0: each when it is timed",
        0,
        flag_values=values,
    )
    flags.DEFINE_string(
        "start_file", None, "compile at once, but time nothing until this file exists", values
    )
    flags.DEFINE_float(
        "max_seconds", 20.0, "fewer repetitions than take this long", 0.0, flag_values=values
    )
    flags.DEFINE_string("record_dir", "", "folder of records; empty records nothing", values)
    flags.DEFINE_string("commit", "", "recorded commit where there is no git repository", values)
    flags.DEFINE_bool("kernels", False, "also the time of every GPU kernel of ours", values)
    flags.DEFINE_bool("reduced", False, "small sizes, to try it out without a GPU", values)


def define_train_benchmark_flags() -> None:
    """The flags of experiments.benchmarks.train."""
    flags.DEFINE_list("presets", ["deltanet_1b3"], "presets whose models are trained")
    shapes = ["16x2048", "8x4096", "4x8192", "2x16384", "1x32768"]
    flags.DEFINE_list("shapes", shapes, "batches, ROWSxTOKENS")
    flags.DEFINE_list("implementations", ["ours", "fla"], "ours, fla")
    flags.DEFINE_string("param_dtype", "float32", "dtype of stored weights and optimiser state")
    flags.DEFINE_string("remat", "products", "what a layer keeps: none, products, arguments, full")
    flags.DEFINE_string("residuals", "recompute", "of the delta rule: recompute, save")
    flags.DEFINE_integer("scan_unroll", 24, "periods laid out in each step of the scan over depth")
    for axis in ("data", "fsdp", "tensor", "sequence"):
        flags.DEFINE_integer(f"mesh_{axis}", 1, MESH[f"mesh_{axis}"][1], lower_bound=1)
    flags.DEFINE_integer("steps", 20, "timed steps", lower_bound=1)
    flags.DEFINE_float("case_seconds", 600.0, "a case that takes longer fails", lower_bound=1.0)
    flags.DEFINE_string("record_dir", None, "append rows to DIR/DEVICE/train.jsonl")
    flags.DEFINE_string("commit", None, "of the code, where there is no git")
    flags.DEFINE_string("case", None, "internal: the case of a process, as JSON")


def define_generate_benchmark_flags() -> None:
    """The flags of experiments.benchmarks.generate."""
    flags.DEFINE_list("presets", ["deltanet_1b3"], "presets whose models decode")
    flags.DEFINE_list("batch_sizes", ["1", "128"], "rows that are decoded together")
    flags.DEFINE_list(
        "layouts",
        ["decoder"],
        "model (scanned layers), decoder (as deltanet_jax.decoder lays it out)",
    )
    flags.DEFINE_list("token_unroll", ["2"], "tokens laid out in the body of the loop over tokens")
    flags.DEFINE_integer("prompt_tokens", 128, "tokens of the prompts", lower_bound=1)
    flags.DEFINE_integer("chunk_tokens", 64, "tokens of each row a timed call", lower_bound=1)
    flags.DEFINE_integer("repetitions", 20, "timed calls of each", lower_bound=1)
    flags.DEFINE_string("param_dtype", "bfloat16", "dtype of stored weights")
    flags.DEFINE_string("record_dir", None, "append rows to DIR/DEVICE/generate.jsonl")
    flags.DEFINE_string("commit", None, "of the code, where there is no git")


def define_fla_logits_flags() -> None:
    """The flags of experiments.benchmarks.fla_logits."""
    flags.DEFINE_list("workdir", [], "runs of ours to compare")
    flags.DEFINE_list("folder", [], "models in FLA's format to compare")
    kinds = "kinds of random models to compare; all of them without --workdir and --folder"
    flags.DEFINE_list("kinds", None, kinds)
    flags.DEFINE_string("data", None, "folder of prepare_data with held-out tokens; else random")
    flags.DEFINE_integer("rows", 2, "sequences of tokens", lower_bound=1)
    flags.DEFINE_integer("columns", 512, "tokens a sequence", lower_bound=1)
    flags.DEFINE_string("record", "", "file to add rows to; empty records nothing")
    flags.DEFINE_string("commit", "", "recorded commit where there is no git repository")


def define_mixers_benchmark_flags() -> None:
    """The flags of experiments.benchmarks.mixers."""
    flags.DEFINE_list("mixers", list(MIXERS), "mixers to time, with their default options")
    flags.DEFINE_integer("rows", 8, "sequences", lower_bound=1)
    flags.DEFINE_integer("columns", 4096, "tokens a sequence", lower_bound=1)
    flags.DEFINE_integer("d_model", 1024, MODEL["d_model"][1], lower_bound=1)
    flags.DEFINE_integer("repetitions", 30, "timed calls of each", lower_bound=1)
    flags.DEFINE_float("max_seconds", 20.0, "fewer repetitions than take this long", 0.0)
    flags.DEFINE_string("record_dir", "", "folder of records; empty records nothing")
    flags.DEFINE_string("commit", "", "recorded commit where there is no git repository")


def define_save_benchmark_flags() -> None:
    """The flags of experiments.benchmarks.save."""
    flags.DEFINE_list("megabytes", ["64", "256", "1024"], "sizes of the state that is saved")
    flags.DEFINE_integer("saves", 9, "timed saves of each, a fifth as many as Orbax saves", 1)
    flags.DEFINE_float("wait_seconds", 0, "longest wait for quiet cores before each save", 0)
    flags.DEFINE_string("scratch_dir", None, "folder to save in; the system's for such by default")
    flags.DEFINE_string("record", "", "file of the record; empty records nothing")
    flags.DEFINE_string("commit", "", "recorded commit where there is no git repository")


def define_resume_benchmark_flags() -> None:
    """The flags of experiments.benchmarks.resume."""
    flags.DEFINE_list("settings", ["deterministic", "default"], "compiler options to try")
    flags.DEFINE_string("preset", "deltanet_1b3", "preset whose model is trained")
    flags.DEFINE_integer("steps", 200, "of the unbroken run", lower_bound=1)
    flags.DEFINE_integer("rows", 4, "sequences a step", lower_bound=1)
    flags.DEFINE_integer("columns", 2048, "tokens a sequence", lower_bound=1)
    flags.DEFINE_string("scratch_dir", None, "folder to save in; the system's for such by default")
    flags.DEFINE_string("record", "", "file of the record; empty records nothing")
    flags.DEFINE_string("commit", "", "recorded commit where there is no git repository")
    flags.DEFINE_bool("reduced", False, "a small model, to try it out without a GPU")
    flags.DEFINE_string("part", None, "internal: what a process does, SETTING:PART")
