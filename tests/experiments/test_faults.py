# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The runner of faults, a short form: hostile files are refused, and a loss would be counted."""

import gzip
import lzma

import numpy as np
import pytest

from experiments.faults import damage, hostile
from experiments.tasks.language_modeling.data import read_documents


def test_hostile_files_are_refused_with_a_message(tmp_path):
    outcome = hostile.hostile_files(tmp_path, np.random.default_rng(0), 250)
    assert (outcome.caused, outcome.problems) == (250, [])


def test_a_reader_that_lets_other_errors_through_is_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(hostile, "read_metrics", lambda path: {}[path])
    outcome = hostile.hostile_files(tmp_path, np.random.default_rng(0), 110)
    assert outcome.lost == 10 and all("metrics.jsonl: KeyError" in p for p in outcome.problems)


@pytest.mark.parametrize("broken", [False, True])
def test_flipped_bits_are_found_and_would_be_missed_without_hashes(tmp_path, monkeypatch, broken):
    if broken:
        monkeypatch.setattr(damage.manifest, "_piece", lambda path, start, size: b"")
    outcome = damage.flip_bits(tmp_path, np.random.default_rng(0), 20)
    assert outcome.caused == 20
    assert outcome.lost > 10 if broken else outcome.lost == 0


@pytest.mark.parametrize("ending", ["gz", "xz"])
def test_a_cut_archive_is_refused_with_its_name(tmp_path, ending):
    packed = {"gz": gzip.compress, "xz": lzma.compress}[ending](b'{"text": "one"}\n' * 99)
    path = tmp_path / f"text.jsonl.{ending}"
    for content in (packed[:-9], packed[:4], b"plain text"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"text.jsonl.{ending}: wanted a whole compressed"):
            list(read_documents(path))
