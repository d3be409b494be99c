# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Token files and random ids: windows, documents, what is refused."""

import numpy as np
import pytest

from experiments.tasks.tokens.task import TokensConfig, Zipf


def write(path, ids, dtype=np.uint16):
    np.save(path, np.asarray(ids, dtype))
    return str(path)


def test_windows_go_over_files_and_are_told_apart_by_document(tmp_path):
    """Ids 0 .. 4 in one file and 5 .. 16 in the next; 4 and 6 start documents."""
    ids = [0, 1, 2, 3, 4, 5, 4, *range(7, 17)]
    names = (write(tmp_path / "a.npy", ids[:5]), write(tmp_path / "b.npy", ids[5:], np.uint32))
    config = TokensConfig(names, vocab_size=17, seq_len=4, document_start=4, eval_fraction=0.2)
    task = config.make()
    (held_out,) = task.eval_dataset()
    assert held_out["inputs"].tolist() == [12, 13, 14, 15]
    assert held_out["targets"].tolist() == [13, 14, 15, 16]
    data = iter(task.train_dataset(1))
    windows = sorted((next(data) for _ in range(3)), key=lambda w: w["inputs"][0, 0])
    assert [w["inputs"][0].tolist() for w in windows] == [
        [0, 1, 2, 3],
        [4, 5, 4, 7],
        [8, 9, 10, 11],
    ]
    assert windows[1]["segment_ids"][0].tolist() == [1, 1, 2, 2]
    assert windows[1]["targets"][0].tolist() == [5, 4, 7, 8]


def test_random_ids_follow_zipf_and_are_the_same_wherever_read():
    zipf = Zipf(100, seed=1)
    ids = zipf.read(0, 50_000)
    assert (zipf.read(4090, 4200) == ids[4090:4200]).all()
    harmonic = (1 / np.arange(1, 101)).sum()
    for i in (0, 1, 9):
        share = (ids == i).mean()
        assert share == pytest.approx(1 / (i + 1) / harmonic, rel=0.1)
    assert (Zipf(100, seed=2).read(0, 100) != ids[:100]).any()


def test_the_entropy_of_random_windows_is_what_a_model_can_reach():
    task = TokensConfig(vocab_size=50, seq_len=8).make()
    batch = next(iter(task.train_dataset(3)))
    assert batch["inputs"].shape == batch["targets"].shape == (3, 8)
    assert (batch["inputs"][:, 1:] == batch["targets"][:, :-1]).all()
    assert "segment_ids" not in batch
    assert task.metrics(np.log(20.0), 0.1)["perplexity"] == pytest.approx(20)


def test_impossible_data_is_refused_with_its_name(tmp_path):
    good = write(tmp_path / "good.npy", range(40))
    text = tmp_path / "text.npy"
    text.write_text("hello")
    cases = [
        ({"data": ("nowhere.npy",)}, "data: wanted a .npy file of token ids, got 'nowhere.npy'"),
        ({"data": (str(text),)}, "data: .*text.npy: wanted a .npy file of token ids"),
        (
            {"data": (write(tmp_path / "f.npy", [1.0], np.float32),)},
            "data: .* got 1 axes of float32",
        ),
        ({"data": (good,), "seq_len": 30}, "data: wanted at least two windows of seq_len = 30"),
    ]
    for changes, message in cases:
        with pytest.raises(ValueError, match=message):
            TokensConfig(**({"seq_len": 4} | changes)).make()
    task = TokensConfig((good,), vocab_size=20, seq_len=4, eval_fraction=0.2).make()
    with pytest.raises(ValueError, match="vocab_size: wanted more than every id, got 20; the data"):
        list(task.eval_dataset())
