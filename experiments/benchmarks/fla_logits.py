# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Converted models beside FLA's own on a GPU: python -m experiments.benchmarks.fla_logits

For each kind of model: FLA makes one of 24 layers with random weights in bfloat16 and saves it;
`experiments.convert` reads it; both compute the logits of the same tokens, in bfloat16 and, with
FLA's recurrent kernels, in float32. Prints a JSON line with RMS ratios and with the tensors that
are not the same bits after the way back.

Exits with 1 if a bit was lost, if the float32 logits differ by more than 1e-3, or if ours in
bfloat16 are further from float32 than FLA's by a tenth. How far that is depends on the model alone:
24 random layers of the delta rule turn rounding into 11 %, in FLA as in ours. Needs torch,
transformers and flash-linear-attention; softmax layers need flash-attn, without which their kinds
are left out aloud.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from flax import nnx

from deltanet_jax.fla.folder import Folder
from deltanet_jax.model import ModelConfig
from deltanet_jax.train.step import model_graph
from experiments.benchmarks.flags import define_fla_logits_flags
from experiments.convert import from_fla, to_fla
from experiments.logs import quiet_logs
from experiments.restored import one_device_trainer, restore_weights
from experiments.run_config import read_run_config

BOUND, NOISE = 1e-3, 1.1
LAYERS, WIDTH, VOCAB, SHAPE = 24, 1024, 32_000, (2, 512)
ATTENTION = {"layers": [1, 12], "num_heads": 8, "window_size": 256}
# Kind -> (FLA's classes begin with, options).
KINDS = {
    "delta_net": ("DeltaNet", {"num_heads": 8}),
    "delta_net_gate": ("DeltaNet", {"num_heads": 8, "use_gate": True, "allow_neg_eigval": True}),
    "gated_deltanet": ("GatedDeltaNet", {"num_heads": 4, "head_dim": 128}),
    "transformer": ("Transformer", {"num_heads": 8}),
    "hybrid": ("DeltaNet", {"num_heads": 8, "attn": ATTENTION}),
}


def fla_logits(kind: str, folder: Path, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Makes and saves FLA's model; its logits of `tokens`, [B, T, VOCAB] float32, computed in
    bfloat16 and in float32.

    Raises:
        ImportError: a package that the model needs is not there.
    """
    import fla.models
    import torch

    name, options = KINDS[kind]
    torch.manual_seed(0)
    config = getattr(fla.models, f"{name}Config")(
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        vocab_size=VOCAB,
        max_position_embeddings=SHAPE[1],
        **options,
    )
    model = getattr(fla.models, f"{name}ForCausalLM")(config).to("cuda", torch.bfloat16).eval()
    model.save_pretrained(folder)
    ids = torch.from_numpy(tokens).long().cuda()

    def logits():
        with torch.no_grad():
            return model(ids, use_cache=False).logits.float().cpu().numpy()

    rounded = logits()
    for module in model.float().modules():
        if hasattr(module, "mode"):
            module.mode = "fused_recurrent"  # the chunkwise kernels refuse float32
    return rounded, logits()


def our_logits(model: ModelConfig, weights: dict, tokens: np.ndarray) -> np.ndarray:
    """Logits of `tokens`, [B, T, VOCAB] float32."""
    graph = model_graph(model)
    logits = jax.jit(lambda weights, tokens: nnx.merge(graph, weights)(tokens)[0])
    return np.asarray(logits(weights, jnp.asarray(tokens)), np.float32)


def rms_ratio(found: np.ndarray, wanted: np.ndarray) -> float:
    """||found - wanted|| / ||wanted|| in float64."""
    found, wanted = found.astype(np.float64), wanted.astype(np.float64)
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def changed_tensors(before: Path, after: Path) -> list[str]:
    """Names of tensors that are in one folder only, or not the same bits in both."""
    with Folder(before) as old, Folder(after) as new:
        names = old.specs.keys() ^ new.specs.keys()
        for name in old.specs.keys() & new.specs.keys():
            same = old.specs[name] == new.specs[name]
            if not same or old.read(name).tobytes() != new.read(name).tobytes():
                names.add(name)
    return sorted(names)


def compare(kind: str, scratch: Path) -> dict[str, object]:
    """One row. Raises ImportError like `fla_logits`."""
    tokens = np.random.default_rng(0).integers(VOCAB, size=SHAPE).astype(np.int32)
    began = time.monotonic()

    def say(done: str) -> None:
        print(f"{kind}: {done} after {time.monotonic() - began:.0f} s", file=sys.stderr)

    theirs, theirs_exact = fla_logits(kind, scratch / "hf", tokens)
    say("FLA's logits")
    from_fla(scratch / "hf", scratch / "run", {"batch_size": 1, "compute_dtype": "bfloat16"})
    run = read_run_config(scratch / "run")
    _, weights = restore_weights(scratch / "run", one_device_trainer(run))
    say("converted")
    ours = our_logits(run.model, weights, tokens)
    say("ours")
    with jax.default_matmul_precision("highest"):
        exact = our_logits(run.model.replace(compute_dtype="float32"), weights, tokens)
    say("ours in float32")
    to_fla(scratch / "run", scratch / "back", 2**28)
    return {
        "kind": kind,
        "device": jax.devices()[0].device_kind,
        "ours_to_fla": rms_ratio(ours, theirs),
        "ours_to_float32": rms_ratio(ours, exact),
        "fla_to_float32": rms_ratio(theirs, exact),
        "float32_to_fla": rms_ratio(exact, theirs_exact),
        "changed_tensors": changed_tensors(scratch / "hf", scratch / "back"),
    }


def main(argv: list[str]) -> None:
    del argv
    quiet_logs()
    # PyTorch needs memory beside JAX.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    bad = False
    for kind in flags.FLAGS.kinds or KINDS:
        if kind not in KINDS:
            sys.exit(f"error: --kinds: wanted some of {sorted(KINDS)}, got {kind!r}")
        with tempfile.TemporaryDirectory(prefix="deltanet-jax-fla-") as scratch:
            try:
                row = compare(kind, Path(scratch))
            except ImportError as error:
                print(f"{kind}: left out: {error}", file=sys.stderr)
                continue
        print(json.dumps(row), flush=True)
        bad |= bool(row["changed_tensors"]) or not (
            row["float32_to_fla"] <= BOUND
            and row["ours_to_float32"] <= NOISE * row["fla_to_float32"]
        )
    sys.exit(int(bad))


if __name__ == "__main__":
    define_fla_logits_flags()
    app.run(main)
