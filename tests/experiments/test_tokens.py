# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Token files and random ids: windows, documents, what is refused."""

import json

import numpy as np
import pytest

from deltanet_jax.train.task import fingerprint
from experiments.tasks.tokens.task import TokensConfig, Zipf
from experiments.text.prepare import prepare
from experiments.text.shards import file_digest
from experiments.text.sources import find_sources
from experiments.text.tokenizers import load_tokenizer


def write(path, ids, dtype=np.uint16):
    np.save(path, np.asarray(ids, dtype))
    return str(path)


TEXTS = [f"document {i}" for i in range(40)]


@pytest.fixture
def folder(tmp_path):
    """Bytes in three shards of training data and one held out."""
    files = {}
    for split, texts in (("train", TEXTS), ("valid", ["held out", "for evaluation"])):
        file = tmp_path / f"{split}.jsonl"
        file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        files[split] = [str(file)]
    out = tmp_path / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("experiments.text.prepare.BATCH_BYTES", 30)
        prepare(find_sources(**files), "bytes", "file", out, workers=1, shard_tokens=200)
    assert len(list(out.glob("train-?????.npy"))) == 3
    return out


def config_of(folder, **changes):
    return TokensConfig((str(folder),), **({"vocab_size": 256, "seq_len": 16} | changes))


def test_a_prepared_folder_is_read_whole_every_epoch_and_evaluated_on_its_own_split(folder):
    stream = [0, *b"\0".join(text.encode() for text in TEXTS)]
    task = config_of(folder).make()
    count = (len(stream) - 1) // 16
    data = iter(task.train_dataset(1))
    epochs = [[next(data) for _ in range(count)] for _ in range(2)]
    for epoch in epochs:
        rows = sorted((w["inputs"][0].tolist(), w["targets"][0].tolist()) for w in epoch)
        windows = [(stream[i : i + 16], stream[i + 1 : i + 17]) for i in range(0, count * 16, 16)]
        assert rows == sorted(windows)
        for window in epoch:
            inputs = window["inputs"][0]
            assert window["segment_ids"][0].tolist() == np.cumsum(inputs == 0).tolist()
    first, second = ([w["inputs"].tolist() for w in epoch] for epoch in epochs)
    assert first != second
    (window,) = task.eval_dataset()
    assert window["inputs"].tolist() == [0, *b"held out\0for ev"]


def test_concatenation_has_no_boundaries(folder):
    assert "segment_ids" not in next(
        iter(config_of(folder, concatenate=True).make().eval_dataset())
    )


def test_a_stream_of_windows_goes_on_where_it_stopped(folder):
    task = config_of(folder).make()
    data = iter(task.train_dataset(2))
    for _ in range(20):  # into the second epoch
        next(data)
    state = data.get_state()
    expected = [next(data) for _ in range(5)]
    again = iter(config_of(folder).make().train_dataset(2))
    again.set_state(state)
    for batch in expected:
        other = next(again)
        assert all((other[name] == batch[name]).all() for name in batch)
    assert fingerprint(task, 2) != fingerprint(config_of(folder, data_seed=1).make(), 2)


def test_another_tokenizer_is_refused(folder):
    digest = load_tokenizer("bytes").digest
    config_of(folder, tokenizer_digest=digest).make()
    for changes, message in (
        ({"tokenizer_digest": "abc"}, f"tokenizer_digest: .*made with the tokenizer {digest}, wan"),
        ({"vocab_size": 255}, "vocab_size: wanted at least the tokenizer's 256, got 255"),
        ({"document_start": 3}, "document_start: wanted the tokenizer's 0, got 3"),
        ({"seq_len": 400}, "data: wanted at least two windows of seq_len = 400, one of them held"),
        ({"document_start": 0, "concatenate": True}, "document_start: wanted -1 with concatenate"),
    ):
        with pytest.raises(ValueError, match=message):
            config_of(folder, **changes).make()
    with pytest.raises(ValueError, match="data: wanted one folder, or files; got "):
        TokensConfig((str(folder), str(folder)), vocab_size=256).make()


def test_every_change_of_the_data_changes_its_fingerprint(folder):
    """Seed, length, packing, batch, content."""
    changes = ({}, {"data_seed": 1}, {"seq_len": 8}, {"concatenate": True})
    seen = [fingerprint(config_of(folder, **change).make(), 4) for change in changes]
    seen.append(fingerprint(config_of(folder).make(), 2))
    index = json.loads((folder / "index.json").read_text())
    for shard in index["shards"]:
        path = folder / f"{shard['name']}.npy"
        changed = np.load(path) ^ 1
        path.unlink()  # the other tasks' threads read the file as it was
        np.save(path, changed)
        shard["sha256"] = file_digest(path)
    (folder / "index.json").write_text(json.dumps(index))
    seen.append(fingerprint(config_of(folder).make(), 4))
    assert len(set(seen)) == len(seen)
    assert seen[-1] == fingerprint(config_of(folder).make(), 4)


def test_damaged_shards_are_named(folder):
    """Sizes when they are opened, content when it is first read."""
    path = folder / "train-00001.npy"
    good = path.read_bytes()

    def rewrite(content: bytes) -> None:
        path.unlink()  # threads of a task before may still read the file as it was
        path.write_bytes(content)

    rewrite(good[:-20] + bytes([good[-20] ^ 1]) + good[-19:])
    task = config_of(folder).make()
    with pytest.raises(ValueError, match="data: .*train-00001.npy is damaged: wanted SHA-256"):
        list(zip(range(100), task.train_dataset(1), strict=False))
    rewrite(good)
    list(zip(range(100), config_of(folder).make().train_dataset(1), strict=False))
    path.unlink()
    np.save(path, np.zeros(10, np.uint16))
    with pytest.raises(ValueError, match="data: .*train-00001.npy is damaged: wanted 2.. ids of"):
        config_of(folder).make()
    path.unlink()
    with pytest.raises(ValueError, match=r"data: wanted a .npy file of token ids, got .*00001"):
        config_of(folder).make()


def test_an_unfinished_folder_is_refused(folder):
    index = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps(index | {"complete": False}))
    with pytest.raises(ValueError, match="data: .* is not complete; experiments.prepare_data"):
        config_of(folder).make()


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
    huge = write(tmp_path / "huge.npy", [2**32 - 1] * 9, np.uint32)
    with pytest.raises(ValueError, match="vocab_size: wanted more .*the data has 4294967295 in"):
        list(TokensConfig((huge,), seq_len=4, eval_fraction=0.5).make().eval_dataset())
