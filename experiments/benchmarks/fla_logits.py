# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Converted models beside FLA's own on a GPU: python -m experiments.benchmarks.fla_logits

--workdir=RUN,...   runs of ours, which are converted and loaded by FLA
--folder=DIR,...    models of FLA's format
--kinds=KIND,...    models of 24 layers that FLA makes with random weights; all without the others

Both sides compute the logits of the same tokens (held-out ones of --data, a folder of
experiments.prepare_data, or random ones) in bfloat16 and, FLA with its recurrent kernels, in
float32. A JSON line for each model, as soon as it is there, has RMS ratios and the tensors that are
not the same bits after the way there and back; --record adds it to a file.

Exits with 1 if nothing could be compared, a bit was lost, or float32 logits differ by more than
1e-3; if the bfloat16 logits of a given model differ by more than 1e-2, or ours of a random one are
further from float32 than FLA's by a tenth. How far a random one is depends on it alone: 24 random
layers of the delta rule turn rounding into 11 %, in FLA as in ours. Needs what fla_peer.py says.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from flax import nnx

from deltanet_jax.fla.folder import Folder
from deltanet_jax.model import ModelConfig
from deltanet_jax.train.checkpoint import CheckpointError
from deltanet_jax.train.step import model_graph
from experiments.benchmarks import fla_peer, records
from experiments.benchmarks.flags import define_fla_logits_flags
from experiments.benchmarks.operation import rms_error
from experiments.command import run
from experiments.convert import from_fla, to_fla
from experiments.flags import explain
from experiments.logs import quiet_logs
from experiments.restored import one_device_trainer, restore_weights
from experiments.run_config import RunConfig, read_run_config
from experiments.tasks.tokens.task import TokensConfig

# Largest RMS ratios; the last is of ours' distance from float32 to FLA's.
EXACT, ROUNDED, NOISE = 1e-3, 1e-2, 1.1
LAYERS, WIDTH, VOCAB = 24, 1024, 32_000
ATTENTION = {"layers": [1, 12], "num_heads": 8, "window_size": 256}
# Kind -> (FLA's classes begin with, options).
KINDS = {
    "delta_net": ("DeltaNet", {"num_heads": 8}),
    "delta_net_gate": ("DeltaNet", {"num_heads": 8, "use_gate": True, "allow_neg_eigval": True}),
    "gated_deltanet": ("GatedDeltaNet", {"num_heads": 4, "head_dim": 128}),
    "transformer": ("Transformer", {"num_heads": 8}),
    "hybrid": ("DeltaNet", {"num_heads": 8, "attn": ATTENTION}),
}
# The flags of a run that from_fla makes.
FLAGS = {"batch_size": 1, "compute_dtype": "bfloat16"}
# (folder in FLA's format, tokens) -> logits in "bfloat16" and in "float32".
Peer = Callable[[Path, np.ndarray], dict[str, np.ndarray]]


def our_logits(run: RunConfig, weights: dict, tokens: np.ndarray, dtype: str) -> np.ndarray:
    """Logits of `tokens`, computed in `dtype`; [B, T, vocab_size] float32."""
    model: ModelConfig = run.model.replace(compute_dtype=dtype, scan_unroll=1, remat="none")
    graph = model_graph(model)
    logits = jax.jit(lambda weights, tokens: nnx.merge(graph, weights)(tokens)[0])
    with jax.default_matmul_precision("highest" if dtype == "float32" else "default"):
        return np.asarray(logits(weights, jnp.asarray(tokens)), np.float32)


def changed_tensors(before: Path, after: Path) -> list[str]:
    """Names of tensors that are in one folder only, or not the same bits in both."""
    with Folder(before) as old, Folder(after) as new:
        names = old.specs.keys() ^ new.specs.keys()
        for name in old.specs.keys() & new.specs.keys():
            same = old.specs[name] == new.specs[name]
            if not same or old.read(name).tobytes() != new.read(name).tobytes():
                names.add(name)
    return sorted(names)


def choose_tokens(data: str | None, vocab_size: int, shape: tuple[int, int]) -> np.ndarray:
    """[B, T] int32: evenly spaced held-out windows of a prepared folder; random ids without one.

    Raises:
        ValueError: no such folder, too few windows, or ids that the model does not have.
    """
    rows, columns = shape
    if data is None:
        return np.random.default_rng(0).integers(vocab_size, size=shape, dtype=np.int32)
    task = TokensConfig(
        data=(data,),
        vocab_size=vocab_size,
        seq_len=columns,
        concatenate=True,
        max_eval_windows=rows,
    )
    windows = [np.asarray(window["inputs"], np.int32) for window in task.make().eval_dataset()]
    if len(windows) < rows:
        raise ValueError(f"rows: wanted at most the {len(windows)} held-out windows, got {rows}")
    return np.stack(windows)


def compare(
    name: str,
    source: str,
    place: Path | None,
    *,
    scratch: Path,
    data: str | None = None,
    shape: tuple[int, int] = (2, 512),
    peer: Peer = fla_peer.fla_logits,
) -> dict[str, Any]:
    """One row.

    Args:
        name: of the kind, run or folder.
        source: "run", "folder" or "random".
        place: of the run or folder.
        scratch: an empty folder.
        data: see `choose_tokens`.
        shape: [B, T] of the tokens.
        peer: whose logits.
    Raises:
        ImportError: a package that the peer needs is not there.
        ValueError, CheckpointError: a run or folder that cannot be converted, data that does not
            fit, logits that are not finite.
    """
    began = time.monotonic()

    def say(done: str) -> None:
        print(f"{name}: {done} after {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)

    folder, again, back = scratch / "fla", scratch / "again", scratch / "back"
    if source == "run":
        to_fla(place, folder, 2**32)
    elif source == "folder":
        folder = place
    else:
        kind, options = KINDS[name]
        sizes = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "vocab_size": VOCAB}
        fla_peer.save_random(kind, sizes | {"max_position_embeddings": shape[1]} | options, folder)
    from_fla(folder, again, FLAGS)
    # Of a run its own weights: they have not been through the conversion.
    workdir = place if source == "run" else again
    run = read_run_config(workdir)
    tokens = choose_tokens(data, run.model.vocab_size, shape)
    to_fla(again, back, 2**32)
    changed = changed_tensors(folder, back)
    say("converted there and back")
    theirs = peer(folder, tokens)
    say("FLA's logits")
    step, weights = restore_weights(workdir, one_device_trainer(run))
    ours = {}
    for dtype in ("bfloat16", "float32"):
        ours[dtype] = our_logits(run, weights, tokens, dtype)
        say(f"ours in {dtype}")
    if not all(np.isfinite(x).all() for x in (*ours.values(), *theirs.values())):
        raise ValueError(f"{name}: wanted finite logits, got others")
    return {
        "kind": name,
        "source": source,
        "step": step if source == "run" else None,
        "layers": run.model.num_layers,
        "tokens": "random" if data is None else "held out",
        "shape": list(shape),
        "device": jax.devices()[0].device_kind,
        "ours_to_fla": rms_error(ours["bfloat16"], theirs["bfloat16"]),
        "ours_to_float32": rms_error(ours["bfloat16"], ours["float32"]),
        "fla_to_float32": rms_error(theirs["bfloat16"], ours["float32"]),
        "float32_to_fla": rms_error(ours["float32"], theirs["float32"]),
        "changed_tensors": changed,
        "seconds": round(time.monotonic() - began, 1),
    }


def holds(row: dict[str, Any]) -> bool:
    """Whether a row is within the bounds that the file names."""
    if row["source"] == "random":
        rounded = row["ours_to_float32"] <= NOISE * row["fla_to_float32"]
    else:
        rounded = row["ours_to_fla"] <= ROUNDED
    return not row["changed_tensors"] and row["float32_to_fla"] <= EXACT and rounded


def wanted(values: flags.FlagValues) -> list[tuple[str, str, Path | None]]:
    """(name, source, place) of every model that the flags ask for. Raises ValueError."""
    for kind in values.kinds or ():
        if kind not in KINDS:
            raise ValueError(f"kinds: wanted some of {sorted(KINDS)}, got {kind!r}")
    for flag in ("workdir", "folder"):
        for place in getattr(values, flag):
            if not (Path(place) / "config.json").is_file():
                raise ValueError(f"{flag}: wanted a folder with config.json, got {place!r}")
    given = [(Path(p).name, "run", Path(p)) for p in values.workdir]
    given += [(Path(p).name, "folder", Path(p)) for p in values.folder]
    kinds = values.kinds if values.kinds is not None or given else KINDS
    return [*given, *((kind, "random", None) for kind in kinds or ())]


def main(argv: list[str]) -> None:
    del argv
    quiet_logs()
    # PyTorch needs memory beside JAX.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    values = flags.FLAGS
    try:
        models = wanted(values)
    except ValueError as error:
        sys.exit(f"error: {explain(error)}")
    about, good, compared = records.machine(values.commit), True, 0
    for name, source, place in models:
        data = None if source == "random" else values.data
        with tempfile.TemporaryDirectory(prefix="deltanet-jax-fla-") as scratch:
            try:
                row = compare(
                    name,
                    source,
                    place,
                    scratch=Path(scratch),
                    data=data,
                    shape=(values.rows, values.columns),
                )
            except ImportError as error:
                print(f"{name}: left out: {error}", file=sys.stderr)
                continue
            except (ValueError, CheckpointError) as error:
                print(f"error: {name}: {explain(error)}", file=sys.stderr)
                good = False
                continue
        print(json.dumps(row), flush=True)
        if values.record:
            records.append_line(Path(values.record), row | about | {"date": records.now()})
        good, compared = good and holds(row), compared + 1
    sys.exit(int(not good or not compared))


if __name__ == "__main__":
    define_fla_logits_flags()
    run(main)
