# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Language modelling: files of every kind, documents, splits, windows."""

import gzip
import json
import lzma

import numpy as np
import pytest

from experiments.tasks.language_modeling import data
from experiments.tasks.language_modeling.task import LanguageModelingConfig, Windows
from experiments.text.documents import find_files


def write_corpus(folder):
    """The same two documents as text, JSONL, and both compressed."""
    folder.mkdir()
    jsonl = "".join(json.dumps({"text": t, "id": i}) + "\n" for i, t in enumerate(("eins", "zwö")))
    (folder / "a.txt").write_text("alpha")
    (folder / "b.jsonl").write_text(jsonl)
    with gzip.open(folder / "c.jsonl.gz", "wt") as file:
        file.write(jsonl)
    (folder / "sub").mkdir()
    with lzma.open(folder / "sub" / "d.txt.xz", "wt") as file:
        file.write("delta")
    return folder


def test_every_kind_of_file(tmp_path):
    folder = write_corpus(tmp_path / "corpus")
    documents = [d for path in find_files((str(folder),)) for d in data.read_documents(path)]
    lines = [b"eins", "zwö".encode()]
    assert documents == [b"alpha", *lines, *lines, b"delta"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{}", r'data: .*:2: wanted a JSON object with a "text"'),
        ("[1]", "data: .*:2: wanted"),
        ("not json", "data: .*:2: wanted"),
        ('{"text": 3}', "data: .*:2: wanted"),
        ('{"text": "a\\u0000b"}', "data: .*:2: wanted text, got a zero byte"),
    ],
)
def test_bad_lines_are_named(tmp_path, line, message):
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": "fine"}\n' + line + "\n")
    with pytest.raises(ValueError, match=message):
        list(data.read_documents(path))


def test_missing_and_empty_paths_are_named(tmp_path):
    with pytest.raises(ValueError, match="data: wanted a file or folder, got '/no/such'"):
        find_files(("/no/such",))
    with pytest.raises(ValueError, match="data: wanted files, got the empty folder"):
        find_files((str(tmp_path),))


def test_windows_cover_the_stream_and_know_their_documents():
    stream = data.join_documents([b"abc", b"defg", b"h"])
    assert bytes(stream) == b"\0abc\0defg\0h"
    windows = Windows(stream, 5)
    assert len(windows) == 2
    first, second = windows[0], windows[1]
    assert bytes(first["inputs"].astype(np.uint8)) == b"\0abc\0"
    assert bytes(first["targets"].astype(np.uint8)) == b"abc\0d"
    assert first["segment_ids"].tolist() == [1, 1, 1, 1, 2]
    assert bytes(second["inputs"].astype(np.uint8)) == b"defg\0"
    assert second["segment_ids"].tolist() == [0, 0, 0, 0, 1]
    assert (first["weights"] == 1).all()


def test_whole_documents_are_held_out():
    documents = [bytes([65 + i % 26]) * (i + 1) for i in range(200)]
    train, held_out = data.split_documents(documents, 0.1, seed=0)
    sides = [set(bytes(s).split(b"\0")[1:]) for s in (train, held_out)]
    assert len(sides[0]) == 180 and len(sides[1]) == 20
    assert sides[0] | sides[1] == set(documents)
    again = data.split_documents(documents, 0.1, seed=0)
    assert all((a == b).all() for a, b in zip((train, held_out), again, strict=True))


def test_the_end_of_a_single_document_is_held_out():
    train, held_out = data.split_documents([b"0123456789" * 10], 0.2, seed=0)
    assert len(train) + len(held_out) == 101
    assert bytes(held_out) == (b"0123456789" * 10)[-20:]


def test_the_standard_library_is_there_without_data():
    files = data.standard_library()
    assert sum(path.stat().st_size for path in files) > 2_000_000
    assert any(path.name == "argparse.py" for path in files)


def test_bits_per_byte():
    task = LanguageModelingConfig(max_eval_windows=3).make()
    assert task.metrics(loss=np.log(2), accuracy=0.0)["bits_per_byte"] == pytest.approx(1.0)
    assert len(task.eval_dataset()) == 3


def test_too_little_text_is_refused(tmp_path):
    (tmp_path / "x.txt").write_text("short")
    with pytest.raises(ValueError, match="data: wanted more than seq_len = 512 bytes for training"):
        LanguageModelingConfig(data=(str(tmp_path),)).make()
