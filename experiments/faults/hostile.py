# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Files nobody should have written, for every reader: refused in time, with a message."""

import base64
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import numpy as np

from deltanet_jax.fla.config import fla_config, model_config
from deltanet_jax.fla.folder import (
    CONFIG,
    INDEX,
    SINGLE,
    Folder,
    Spec,
    read_config,
    write_folder,
)
from deltanet_jax.fla.weights import places, read_weights
from deltanet_jax.mixers.delta_net import DeltaNetConfig
from deltanet_jax.model import ModelConfig
from deltanet_jax.train import manifest
from deltanet_jax.train.metrics import keep_rows
from experiments.evaluation.scoring import Results
from experiments.evaluation.tasks import read_questions
from experiments.faults.damage import make_checkpoints
from experiments.faults.fuzz import mutated, try_cases
from experiments.faults.outcome import Outcome, parts
from experiments.generate import read_prompts
from experiments.presets import PRESETS
from experiments.run_config import read_run_config
from experiments.tasks.language_modeling.data import read_documents
from experiments.text.shards import Ids, Index, Settings, Shard, Source, read_index
from experiments.text.tokenizers import END_OF_TEXT, load_tokenizer, printable_bytes


def _readers(scratch: Path) -> dict[Path, Callable[[Path], object]]:
    """A good file of each kind, and what reads it."""
    folder = make_checkpoints(scratch / "hostile")
    run = scratch / "run"
    run.mkdir()
    config, rows = run / "config.json", run / "metrics.jsonl"
    config.write_text(PRESETS["language_modeling/small-hybrid"]().to_json())
    rows.write_text('{"step": 1, "train/loss": 2.5}\n' * 3)
    whole, sharded = (_make_fla_model(scratch / f"shards{n}", n) for n in (2**20, 200))
    documents, tokens = run / "text.jsonl", run / "ids.npy"
    documents.write_text('{"text": "one"}\n{"text": "two"}\n')
    np.save(tokens, np.arange(50, dtype=np.uint16))
    packed = {run / "text.jsonl.xz": lzma.compress, run / "text.jsonl.gz": gzip.compress}
    for path, compress in packed.items():
        path.write_bytes(compress(documents.read_bytes() * 9))

    index = run / "index.json"
    shard = Shard("train-00000", 50, 1, 200, "0" * 64, "0" * 64)
    settings = Settings("0" * 64, 256, 0, "file", 40, (Source("train", "a.txt", "0" * 64),))
    Index(settings, complete=True, shards=(shard,)).write(run)

    def read_tokens(path: Path) -> None:
        ids = Ids([path], [None])
        ids.read(0, min(len(ids), 10))

    def read_fla(path: Path) -> None:
        with Folder(path.parent) as folder:
            read_weights(model_config(read_config(path.parent)), folder)

    return {
        folder / "2" / manifest.NAME: lambda path: manifest.verify(path.parent),
        config: lambda path: read_run_config(path.parent),
        rows: lambda path: keep_rows(path, lambda row: row["step"] < 9),
        **dict.fromkeys((documents, *packed), lambda path: list(read_documents(path))),
        tokens: read_tokens,
        index: lambda path: read_index(path.parent),
        whole / CONFIG: lambda path: model_config(read_config(path.parent)),
        **dict.fromkeys((whole / SINGLE, sharded / INDEX), read_fla),
        **_evaluation_readers(run),
        **_tokenizer_readers(run),
    }


def _evaluation_readers(folder: Path) -> dict[Path, Callable[[Path], object]]:
    """Questions, answers kept, prompts."""
    squad = {"paragraphs": [{"context": "c", "qas": [{"question": "q", "answers": ["a"]}]}]}
    piqa = {"goal": "g", "sol1": "a", "sol2": "b", "label": 1}
    fda = {"text": "t", "value": "v"}
    kinds = {
        "piqa_valid.jsonl": (piqa, lambda path: read_questions("piqa", path.parent)),
        "squad_v1.1_dev.json": (
            {"data": [squad]},
            lambda path: read_questions("squad_dev_containment", path.parent),
        ),
        "fda.jsonl.gz": (fda, lambda path: read_questions("fda", path.parent)),
        "requests.jsonl": ({"key": "a", "result": [1]}, lambda path: Results(path, "")),
        "prompts.jsonl": ({"prompt": "x"}, lambda path: read_prompts(str(path))),
    }
    for name, (row, _) in kinds.items():
        content = json.dumps(row).encode() + b"\n"
        (folder / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    return {folder / name: read for name, (_, read) in kinds.items()}


def _tokenizer_readers(folder: Path) -> dict[Path, Callable[[Path], object]]:
    """GPT-2's files and tiktoken's, of all bytes and one merge."""
    encoder, merges = folder / "encoder.json", folder / "vocab.bpe"
    encoder.write_text(json.dumps(printable_bytes() | {"ab": 256, END_OF_TEXT: 257}))
    merges.write_text("#version: 0.2\na b\n")
    tiktoken = folder / "bytes.tiktoken"
    lines = [b"%s %d\n" % (base64.b64encode(bytes([byte])), byte) for byte in range(256)]
    tiktoken.write_bytes(b"".join(lines))
    return {
        **dict.fromkeys((encoder, merges), lambda path: load_tokenizer(str(path.parent))),
        tiktoken: lambda path: load_tokenizer(str(path)),
    }


def _make_fla_model(folder: Path, max_shard_bytes: int) -> Path:
    """FLA's folder of a model of one layer."""
    model = ModelConfig(
        vocab_size=8,
        d_model=4,
        num_layers=1,
        layer_pattern=(DeltaNetConfig(num_heads=1),),
        mlp_hidden_size=4,
    )
    specs = {name: Spec("float32", place.shape) for name, place in places(model).items()}
    folder.mkdir()
    write_folder(
        folder,
        fla_config(model, 16),
        specs,
        lambda name: np.ones(specs[name].shape, np.float32),
        max_shard_bytes,
    )
    return folder


def hostile_files(scratch: Path, seed: int, count: int) -> Outcome:
    """`count` files, of every kind as many, each a good one with a few changes."""
    outcome = Outcome("a hostile config, manifest, log, text, archive, token file or model")
    readers = list(_readers(scratch).items())
    for (path, read), part in zip(readers, parts(count, len(readers)), strict=False):

        def write_and_read(content: bytes, path=path, read=read) -> None:
            path.write_bytes(content)
            read(path)

        good = path.read_bytes()
        try_cases(outcome, path.name, mutated(good), part, seed, write_and_read)
        path.write_bytes(good)  # others read it too
    return outcome
