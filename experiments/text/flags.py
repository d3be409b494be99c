# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The flags of the commands that prepare text, and train and evaluate the small main table."""

from absl import flags

from experiments.flags import define_compilation_flags, define_tokenizer, define_workdir
from experiments.lm_small_presets import MODELS
from experiments.text.documents import BOUNDARIES

# What is defined here is the command's own: its --help shows it.
flags.disclaim_key_flags()


def define_build_dataset_flags() -> None:
    """The flags of experiments.build_dataset: local files, and where what is made of them goes."""
    flags.DEFINE_list("data", [], "files and folders to train on")
    flags.DEFINE_list("valid_data", [], "files and folders to evaluate on")
    flags.DEFINE_list("test_data", [], "files and folders of the final test")
    where = 'documents of a text file: the whole file, or from each line "= Title =" on'
    flags.DEFINE_enum("documents", "file", BOUNDARIES, where)
    flags.DEFINE_string("out", None, "folder of the result", required=True)


def define_prepare_flags() -> None:
    """The flags of experiments.prepare_data."""
    define_build_dataset_flags()
    flags.DEFINE_string("dataset", None, "tfds:NAME, in the place of files")
    flags.DEFINE_string("dataset_dir", None, "where tensorflow-datasets keeps data sets")
    define_tokenizer(required=True)
    flags.DEFINE_integer("workers", 0, "processes that tokenize; 0 is all cores", 0)
    flags.DEFINE_integer("shard_tokens", 2**23, "tokens of a shard, about", 1)


def define_input_benchmark_flags() -> None:
    """The flags of experiments.benchmarks.tokens_input."""
    flags.DEFINE_string("data", None, "folder made by prepare_data", required=True)
    flags.DEFINE_integer("seq_len", 2048, "tokens a window", lower_bound=1)
    flags.DEFINE_integer("batch_size", 64, "windows a batch", lower_bound=1)
    flags.DEFINE_float("seconds", 5.0, "how long to read, at least", lower_bound=0.1)
    flags.DEFINE_string("record", "", "file for the result; empty records nothing")


def _define_wikitext_flags() -> None:
    define_tokenizer()
    flags.DEFINE_string("wikitext", None, "wiki.test.raw, for its word perplexity")


def define_lm_small_eval_flags() -> None:
    """The flags of experiments.lm_small_eval."""
    define_workdir()
    define_compilation_flags()
    _define_wikitext_flags()
    flags.DEFINE_string("record", "", "file for the result; empty records nothing")


def define_lm_small_flags() -> None:
    """The flags of experiments.lm_small."""
    define_compilation_flags()
    _define_wikitext_flags()
    flags.DEFINE_list("models", list(MODELS), "presets lm_small/NAME")
    flags.DEFINE_integer("seed", 0, "of weights and order of the data; not 0: NAME-seed-N", 0)
    flags.DEFINE_string("data", None, "folder made by prepare_data", required=True)
    flags.DEFINE_string("workdir", "runs/lm_small", "folder of the runs and their checkpoints")
    flags.DEFINE_string("out", None, "folder of what is kept of them", required=True)
    flags.DEFINE_list("tasks", [], "of experiments/evaluation/tasks.py, scored after training")
    flags.DEFINE_string("task_data", None, "folder with the tasks' files")
    flags.DEFINE_float("max_minutes", 0.0, "save and end after so long; 0 never does", 0.0)
    flags.DEFINE_bool("reduced", False, "toys, to try it out without a GPU")
