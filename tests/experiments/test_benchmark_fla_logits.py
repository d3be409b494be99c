# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The comparison with FLA, the written-out definition of its models in FLA's place."""

import types

import numpy as np
import pytest
from safetensors.numpy import load_file

from deltanet_jax.fla.folder import read_config
from experiments.benchmarks import fla_logits
from experiments.benchmarks.fla_tables import fla_table
from experiments.convert import from_fla
from tests.helpers import fla
from tests.helpers.fla import write_folder

CONFIG = fla.CONFIGS["delta_net"]


def definition(folder, tokens):
    """In FLA's place: bfloat16 is a last rounding."""
    config, tensors = read_config(folder), load_file(folder / "model.safetensors")
    exact = np.stack([fla.logits(config, tensors, row) for row in tokens])
    return {"float32": exact.astype(np.float32), "bfloat16": (exact * 1.003).astype(np.float32)}


def flags(**changes):
    values = {"kinds": None, "workdir": [], "folder": []}
    return types.SimpleNamespace(**(values | changes))


@pytest.fixture(scope="module")
def row(tmp_path_factory):
    """Of a run that was a folder before."""
    place = tmp_path_factory.mktemp("logits")
    write_folder(place / "hf", CONFIG, fla.random_tensors(CONFIG))
    from_fla(place / "hf", place / "delta", {"batch_size": 1})
    (place / "scratch").mkdir()
    return fla_logits.compare(
        "delta",
        "run",
        place / "delta",
        scratch=place / "scratch",
        shape=(2, 9),
        peer=definition,
    )


def test_a_run_is_compared_with_its_conversion(row):
    assert row["changed_tensors"] == [] and row["step"] == 0 and row["shape"] == [2, 9]
    assert row["float32_to_fla"] <= 1e-5
    assert row["fla_to_float32"] == pytest.approx(0.003, rel=1e-2)
    # Rounding between layers, which the definition has not.
    assert 1e-3 < row["ours_to_float32"] < 0.1 and 1e-3 < row["ours_to_fla"] < 0.1


def test_the_table_has_a_line_a_model(row):
    line = fla_table([row | {"commit": "0123456789"}]).splitlines()[2]
    assert line.startswith("| delta, trained here | 2 | 2 x 9, random | ")
    assert line.endswith(f"{row['float32_to_fla']:.1e} | 0 | 0123456 |")


@pytest.mark.parametrize(
    ("source", "changes", "good"),
    [
        ("run", {}, True),
        ("run", {"ours_to_fla": 0.011}, False),
        ("folder", {"ours_to_fla": 0.011}, False),
        ("random", {"ours_to_fla": 0.2}, True),
        ("random", {"ours_to_float32": 0.12}, False),
        ("run", {"float32_to_fla": 2e-3}, False),
        ("random", {"changed_tensors": ["lm_head.weight"]}, False),
    ],
)
def test_each_bound_is_held(source, changes, good):
    values = {"ours_to_fla": 0.009, "ours_to_float32": 0.1, "fla_to_float32": 0.1}
    values |= {"float32_to_fla": 1e-6, "changed_tensors": [], "source": source}
    assert fla_logits.holds(values | changes) == good


def test_what_is_not_there_is_refused(tmp_path):
    kinds = [(kind, "random", None) for kind in fla_logits.KINDS]
    assert fla_logits.wanted(flags()) == kinds
    (tmp_path / "config.json").write_text("{}")
    given = fla_logits.wanted(flags(workdir=[str(tmp_path)], kinds=["hybrid"]))
    assert given == [(tmp_path.name, "run", tmp_path), ("hybrid", "random", None)]
    assert fla_logits.wanted(flags(folder=[str(tmp_path)])) == [(tmp_path.name, "folder", tmp_path)]
    for changes, message in (
        ({"kinds": ["mamba"]}, "^kinds: wanted some of .* got 'mamba'"),
        ({"workdir": ["nowhere"]}, "^workdir: wanted a folder with config.json, got 'nowhere'"),
        ({"folder": ["nowhere"]}, "^folder: wanted a folder with config.json, got 'nowhere'"),
    ):
        with pytest.raises(ValueError, match=message):
            fla_logits.wanted(flags(**changes))


def test_tokens_are_held_out_ones_of_the_data_or_random(tmp_path):
    ids = np.arange(2001, dtype=np.uint16) % 23
    np.save(tmp_path / "ids.npy", ids)
    data = str(tmp_path / "ids.npy")
    held_out = fla_logits.choose_tokens(data, 23, (1, 10))
    assert held_out.dtype == np.int32 and held_out.tolist() == [ids[1990:2000].tolist()]
    drawn = fla_logits.choose_tokens(None, 23, (3, 50))
    assert drawn.shape == (3, 50) and drawn.min() >= 0 and drawn.max() == 22
    with pytest.raises(ValueError, match="^rows: wanted at most the 1 held-out windows, got 2"):
        fla_logits.choose_tokens(data, 23, (2, 10))
    with pytest.raises(ValueError, match="^vocab_size: wanted more than every id, got 22"):
        fla_logits.choose_tokens(data, 22, (1, 10))
    with pytest.raises(ValueError, match="^data: "):
        fla_logits.choose_tokens(str(tmp_path / "nowhere"), 23, (1, 10))
