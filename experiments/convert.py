# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Models of flash-linear-attention (FLA) in Hugging Face's format, in and out.

python -m experiments.convert --from=fla --input=HF_FOLDER --output=WORKDIR [--data=ids.npy ...]
python -m experiments.convert --from=ours --input=WORKDIR --output=HF_FOLDER

In: WORKDIR is a run before its first step, which experiments.evaluate restores and
experiments.main --workdir=WORKDIR trains further; the options of a run say on what and how (they
may not change what the model computes). Out: the newest intact checkpoint; a run that came from an
FLA folder gets that folder's config.json, names and dtypes back. Prints every tensor; writes all or
nothing.
"""

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from deltanet_jax.fla import config as fla_config
from deltanet_jax.fla import weights as fla_weights
from deltanet_jax.fla.folder import (
    DTYPES,
    Folder,
    Spec,
    new_folder,
    read_config,
    write_folder,
)
from deltanet_jax.fla.weights import NEW_NAME, OLD_NAME
from deltanet_jax.sharding import MESH_AXES
from deltanet_jax.train.checkpoint import CheckpointError, Checkpoints
from deltanet_jax.train.config import TrainConfig
from deltanet_jax.train.files import read_json, write_atomically
from deltanet_jax.train.optimizer import make_optimizer
from deltanet_jax.train.step import first_state
from deltanet_jax.train.task import fingerprint
from experiments.command import run
from experiments.flags import (
    GROUPS,
    define_convert_flags,
    define_run_flags,
    explain,
    run_config_from_flags,
)
from experiments.logs import quiet_logs
from experiments.restored import one_device_trainer, restore_weights
from experiments.run_config import RunConfig, read_run_config
from experiments.tasks.tokens.task import TokensConfig
from pallas_kernels._common.timing import machine_info

SOURCE = "fla.json"  # in the directory of a run that came from FLA


def _continued_run(folder: Folder, config: dict, values: dict[str, Any]) -> RunConfig:
    """The run that goes on from the folder's model. Raises ValueError for what we do not have."""
    dtype = fla_weights.widest_dtype(folder.specs)
    model = fla_config.model_config(config, param_dtype=dtype, compute_dtype=dtype)
    seq_len = config.get("max_position_embeddings", 2048)
    if type(seq_len) is not int:
        raise ValueError(
            f"config.json: max_position_embeddings: wanted a whole number, got {seq_len!r}"
        )
    task = TokensConfig(vocab_size=model.vocab_size, seq_len=seq_len)
    run = run_config_from_flags(values, RunConfig(model=model, task=task, train=TrainConfig()))
    if changed := fla_config.differences(model, run.model):
        raise ValueError(f"{changed[0]}: wanted the options of the model in --input")
    return run


def from_fla(source: Path, workdir: Path, values: dict[str, Any]) -> list[str]:
    """Writes a run with the weights of an FLA model.

    Args:
        source: Hugging Face folder of the model.
        workdir: of the run; must not exist, or be empty.
        values: flags of a run; None is the model's, or the default.
    Returns:
        What became what, a line for every tensor.
    Raises:
        ValueError: the folder is damaged, holds a model that we do not have, or other tensors than
            its config.json says; nothing is written then.
    """
    config = read_config(source)
    with Folder(source) as folder:
        run = _continued_run(folder, config, values)
        task = run.task.make()
        names = fla_weights.match(run.model, folder.specs)
        with new_folder(workdir) as output:
            weights = fla_weights.read_weights(run.model, folder)
            optimizer = make_optimizer(run.train.optimizer, run.train.num_steps)
            state = first_state(jax.tree.map(jnp.asarray, weights), optimizer, run.train.seed)
            machine = machine_info()
            facts = {
                "config": run.to_dict(),
                "mesh": dict.fromkeys(MESH_AXES, 1),
                "data": fingerprint(task, run.train.batch_size),
                "machine": machine,
            }
            with Checkpoints(output / "checkpoints", 1, facts) as checkpoints:
                checkpoints.save(0, state, iter(task.train_dataset(run.train.batch_size)))
            original = {"config": config, "dtypes": {k: v.dtype for k, v in folder.specs.items()}}
            write_atomically(output / "config.json", run.to_json())
            write_atomically(output / SOURCE, json.dumps(original, indent=2) + "\n")
            write_atomically(output / "machine.json", json.dumps(machine, indent=2) + "\n")
        places = fla_weights.places(run.model)
        return [
            f"{found} {folder.specs[found]} -> {_ours(places[n])}" for n, found in names.items()
        ]


def _ours(place: fla_weights.Place) -> str:
    return place.path + ("" if place.repetition is None else f"[{place.repetition}]")


def _original(workdir: Path, config: RunConfig) -> tuple[dict[str, Any], dict[str, str]]:
    """config.json for FLA, and the dtype of every tensor: those that the run came with, if any."""
    path = workdir / SOURCE
    if not path.is_file():
        seq_len = getattr(config.task, "seq_len", 2048)
        written = fla_config.fla_config(config.model, seq_len)
        names = fla_weights.places(config.model)
        return written, dict.fromkeys(names, config.model.param_dtype)
    content = read_json(path)
    keys = isinstance(content, dict) and content.keys()
    if keys != {"config", "dtypes"} or not all(isinstance(v, dict) for v in content.values()):
        raise ValueError(f"{path}: wanted an object of config and dtypes, got another")
    original = fla_config.model_config(content["config"])
    if changed := fla_config.differences(original, config.model):
        raise ValueError(f"{path}: wanted the options of {workdir / 'config.json'}: {changed[0]}")
    return content["config"], content["dtypes"]


def to_fla(workdir: Path, target: Path, max_shard_bytes: int) -> list[str]:
    """Writes the newest intact checkpoint of a run as an FLA model.

    Args:
        workdir: of the run.
        target: Hugging Face folder; must not exist, or be empty.
        max_shard_bytes: more than that in tensors goes into several files with an index.
    Returns:
        What became what, a line for every tensor.
    Raises:
        ValueError: no run, no intact checkpoint, or a model that FLA does not have; nothing is
            written then.
    """
    config = read_run_config(workdir)
    fla, dtypes = _original(workdir, config)
    unknown = sorted({str(d) for d in dtypes.values()} - set(DTYPES.values()))
    if unknown:
        raise ValueError(f"dtypes: wanted some of {sorted(DTYPES.values())}, got {unknown}")
    places = fla_weights.places(config.model)
    tied = places[fla_weights.EMBEDDING]  # also the head, where the folder has one of its own
    found = {name: places.get(name.replace(OLD_NAME, NEW_NAME), tied) for name in dtypes}
    specs = {name: Spec(dtypes[name], place.shape) for name, place in found.items()}
    fla_weights.match(config.model, specs)
    with new_folder(target) as output:
        _, weights = restore_weights(workdir, one_device_trainer(config))
        weights = jax.device_get(weights)

        def make(name: str) -> np.ndarray:
            return fla_weights.tensor(weights, found[name], dtypes[name])

        write_folder(output, fla, specs, make, max_shard_bytes)
    return [f"{_ours(place)} -> {name} {specs[name]}" for name, place in found.items()]


def refuse_run_options(values: dict[str, Any]) -> None:
    """Raises ValueError for a run's option, which --from=ours has no use for."""
    for name in ("layer_pattern", *itertools.chain(*GROUPS.values())):
        if values.get(name) is not None:
            raise ValueError(f"{name}: wanted none with --from=ours, got {values[name]!r}")


def main(argv: list[str]) -> None:
    del argv
    quiet_logs()
    jax.config.update("jax_platforms", "cpu")
    values = flags.FLAGS
    source, target = Path(values.input), Path(values.output)
    try:
        if values["from"].value == "fla":
            report = from_fla(source, target, values.flag_values_dict())
        else:
            refuse_run_options(values.flag_values_dict())
            report = to_fla(source, target, int(values.max_shard_gib * 2**30))
    except (ValueError, CheckpointError, OSError) as error:
        text = explain(error) if isinstance(error, ValueError) else str(error)
        sys.exit(f"error: {text}")
    print("\n".join(report))
    print(f"{len(report)} tensors, none missing, none unexpected; written to {target}")


if __name__ == "__main__":
    define_convert_flags()
    define_run_flags()
    run(main)
