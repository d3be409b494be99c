# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Text to shards: every input, equal bytes for any workers and restarts, what is refused."""

import gzip
import json
import lzma
import subprocess
import sys

import numpy as np
import pytest

from experiments.text import prepare as prepare_module
from experiments.text.documents import read_documents
from experiments.text.prepare import prepare
from experiments.text.shards import INDEX, fingerprint, open_split, read_index
from experiments.text.sources import find_sources, sources_from_flags

WIKI = "= A =\n\nalpha\n\n== Part ==\n\nmore\n\n= Bé =\n\nbeta\n"
WIKITEXT = " \n = A = \n \n alpha \n = = Part = = \n more \n \n = Bé = \n beta \n"


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(prepare_module, "BATCH_BYTES", 20)


def make(files, out, *, valid=(), boundary="title", workers=1, shard_tokens=40):
    sources = find_sources(train=[str(f) for f in files], valid=[str(f) for f in valid])
    return prepare(sources, "bytes", boundary, out, workers=workers, shard_tokens=shard_tokens)


def write_lines(path, texts):
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    return path


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "lock"}


def test_documents_of_wikipedia_start_at_titles(tmp_path):
    path = tmp_path / "wiki.txt.xz"
    with lzma.open(path, "wt") as file:
        file.write(WIKI)
    first, second = read_documents(path, "title")
    assert first.text.decode() == WIKI[: WIKI.index("= Bé")].removesuffix("\n")
    assert second.text.decode() == WIKI[WIKI.index("= Bé") :]
    assert (first.where, second.where) == (f"{path}:1", f"{path}:9")
    (whole,) = read_documents(path)
    assert whole.text.decode() == WIKI


def test_documents_of_wikitext_are_lm_evals_pages(tmp_path):
    """Against the harness's preprocessing, written out as its data set's script has it."""
    pages, lines = [], []
    for line in WIKITEXT.split("\n"):
        stripped = line.replace("= = =", "===").replace("= =", "==").strip()
        if stripped.startswith("= ") and stripped.endswith(" ="):
            pages.append("\n".join(lines))
            lines = []
        lines.append(line)
    pages.append("\n".join(lines))
    (tmp_path / "raw").write_text(WIKITEXT)
    found = [d.text.decode() for d in read_documents(tmp_path / "raw", "title")]
    assert found == [page for page in pages if page.strip()]
    assert len(found) == 2


def test_shards_hold_every_document_after_its_start(tmp_path):
    texts = [f"document {i} " * (i % 4) + "x" for i in range(20)]
    (tmp_path / "a.txt").write_text("alone")
    with gzip.open(tmp_path / "b.jsonl.gz", "wt") as file:
        file.write(write_lines(tmp_path / "c.jsonl", texts).read_text())
    files = [tmp_path / "a.txt", tmp_path / "b.jsonl.gz"]
    (tmp_path / "held.txt").write_text("held out")
    index = make(files, tmp_path / "out", valid=[tmp_path / "held.txt"], boundary="file")
    assert index == read_index(tmp_path / "out") and index.complete
    assert len(index.of("train")) > 3 and len(index.of("valid")) == 1
    expected = b"".join(b"\0" + t.encode() for t in ["alone", *texts])
    ids = open_split(tmp_path / "out", index, "train")
    assert bytes(ids.read(0, len(ids)).astype(np.uint8)) == expected
    assert (index.count("train", "tokens"), index.count("train", "documents")) == (len(ids), 21)
    assert index.count("train", "text_bytes") == len(expected) - 21
    for shard in index.of("train"):
        shard_ids = np.load(tmp_path / "out" / f"{shard.name}.npy")
        starts = np.load(tmp_path / "out" / f"{shard.name}.documents.npy")
        assert shard_ids.dtype == np.uint16
        assert starts.tolist() == np.flatnonzero(shard_ids == 0).tolist()
        assert shard.documents == len(starts)


def test_workers_and_restarts_change_nothing(tmp_path, monkeypatch):
    file, held = (
        write_lines(tmp_path / name, [f"text number {i}" for i in range(60)])
        for name in ("a.jsonl", "held.jsonl")
    )
    make([file], tmp_path / "one", valid=[held])
    make([file], tmp_path / "two", valid=[held], workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")

    real, written = prepare_module.write_shard, []

    def crash(folder, name, *args):
        if len(written) == 4:
            raise KeyboardInterrupt
        written.append(name)
        return real(folder, name, *args)

    monkeypatch.setattr(prepare_module, "write_shard", crash)
    with pytest.raises(KeyboardInterrupt):
        make([file], tmp_path / "three", valid=[held])
    monkeypatch.setattr(
        prepare_module, "write_shard", lambda f, name, *a: written.append(name) or real(f, name, *a)
    )
    assert not read_index(tmp_path / "three").complete
    make([file], tmp_path / "three", valid=[held])
    assert contents(tmp_path / "one") == contents(tmp_path / "three")
    assert len(written) == len(set(written)) == len(read_index(tmp_path / "one").shards)
    make([file], tmp_path / "three", valid=[held])
    assert len(written) == len(set(written))


def test_other_settings_in_a_folder_are_refused(tmp_path):
    file = write_lines(tmp_path / "a.jsonl", ["text"])
    held = write_lines(tmp_path / "held.jsonl", ["text"])
    make([file], tmp_path / "out")
    for changes in ({"boundary": "file"}, {"shard_tokens": 41}, {"valid": [held]}):
        with pytest.raises(ValueError, match="out: .* was made with other settings: "):
            make([file], tmp_path / "out", **changes)
    write_lines(file, ["next"])
    with pytest.raises(ValueError, match="other settings: sources was"):
        make([file], tmp_path / "out")


def test_a_file_is_of_one_split(tmp_path):
    """Of a folder that is trained on, too: what is held out would be among it."""
    (tmp_path / "corpus").mkdir()
    held = write_lines(tmp_path / "corpus" / "held.jsonl", ["text"])
    folder = [str(tmp_path / "corpus")]
    (tmp_path / "link.jsonl").symlink_to(held)
    for split, path in (("valid", held), ("test", tmp_path / "link.jsonl")):
        with pytest.raises(ValueError, match=f"^{split}_data: wanted files that are not of .*'tra"):
            find_sources(train=folder, **{split: [str(path)]})
    assert len(find_sources(train=[*folder, str(held)])["train"]) == 2


def test_the_flag_whose_file_is_not_there_is_named(tmp_path):
    here = write_lines(tmp_path / "a.jsonl", ["text"])
    for split, flag in (("train", "data"), ("valid", "valid_data"), ("test", "test_data")):
        with pytest.raises(ValueError, match=f"^{flag}: wanted a file or folder, got 'nothere'"):
            find_sources(**{"train": [str(here)], split: ["nothere"]})


def test_fingerprints_see_both_ends_and_the_size(tmp_path):
    path = tmp_path / "x"
    found = set()
    for content in (b"a" + bytes(5 * 2**19), b"b" + bytes(5 * 2**19), bytes(5 * 2**19) + b"b"):
        path.write_bytes(content)
        found.add(fingerprint(path))
    path.write_bytes(bytes(5 * 2**19))
    assert fingerprint(path) not in found and len(found) == 3


def test_bad_input_is_named(tmp_path):
    bad = tmp_path / "bad.txt"
    bad.write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match=r"data: .*bad.txt:1: wanted UTF-8"):
        make([bad], tmp_path / "a")
    zero = write_lines(tmp_path / "zero.jsonl", ["fine", "a\0b"])
    with pytest.raises(ValueError, match=r"data: .*zero.jsonl:2: wanted text, got a zero byte"):
        make([zero], tmp_path / "b")
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    with pytest.raises(ValueError, match="data: wanted documents for train, got none"):
        make([empty], tmp_path / "c")
    cut = tmp_path / "cut.txt.xz"
    cut.write_bytes(lzma.compress(b"text" * 1000)[:-20])
    with pytest.raises(ValueError, match=r"data: .*cut.txt.xz: wanted a whole compressed file"):
        make([cut], tmp_path / "d")


def write_parquet(path, **columns):
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet").write_table(pyarrow.table(columns), path)
    return path


def test_parquet_has_a_document_a_row(tmp_path, monkeypatch):
    texts = [f"text {i}" for i in range(3000)]
    path = write_parquet(tmp_path / "x.parquet", text=texts, id=list(range(3000)))
    documents = list(read_documents(path))
    assert [d.text.decode() for d in documents] == texts
    assert documents[-1].position == path.stat().st_size
    other = write_parquet(tmp_path / "y.parquet", words=["a"])
    (tmp_path / "z.parquet").write_text("no Parquet")
    for bad in (other, tmp_path / "z.parquet"):
        with pytest.raises(ValueError, match='data: .*parquet: wanted Parquet with a column "text'):
            list(read_documents(bad))
    numbers = write_parquet(tmp_path / "n.parquet", text=[1])
    with pytest.raises(ValueError, match="data: .*n.parquet, row 1: wanted a text, got int"):
        list(read_documents(numbers))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match="pip install pyarrow"):
        list(read_documents(path))


def test_a_damaged_index_is_named(tmp_path):
    with pytest.raises(ValueError, match="data: wanted a folder made by prepare_data, but .*json"):
        read_index(tmp_path)
    file = write_lines(tmp_path / "a.jsonl", ["text"])
    make([file], tmp_path / "out")
    good = json.loads((tmp_path / "out" / INDEX).read_text())
    for change, message in (
        ({"format": 2}, "wanted an index of format 1, got 2"),
        ({"extra": 1}, r"unknown keys \['extra'\]"),
        ({"shards": [good["shards"][0] | {"name": "../x"}]}, "wanted names without folders"),
    ):
        (tmp_path / "out" / INDEX).write_text(json.dumps(good | change))
        with pytest.raises(ValueError, match=f"data: .*index.json: .*{message}"):
            read_index(tmp_path / "out")


def test_a_data_set_of_tfds_gives_the_shards_of_the_files_it_was_made_from(tmp_path):
    """Through ArrayRecord and back by name alone, without TensorFlow."""
    for package in ("tensorflow_datasets", "importlib_resources"):
        pytest.importorskip(package)
    from experiments.text.tfds_text import build

    train = write_lines(tmp_path / "a.jsonl", [f"tëxt {i}" for i in range(12)])
    valid = write_lines(tmp_path / "b.jsonl", ["held out"])
    files = find_sources(train=[str(train)], valid=[str(valid)])
    build(files, "file", tmp_path / "tfds")
    with pytest.raises(ValueError, match="out: wanted a new folder, but .*local_text"):
        build(files, "file", tmp_path / "tfds")
    with pytest.raises(ValueError, match="^data: wanted files and folders to train on, got none"):
        build({"valid": files["valid"]}, "file", tmp_path / "empty")
    assert not (tmp_path / "empty").exists()
    values = {"data": [], "valid_data": [], "test_data": [], "dataset_dir": str(tmp_path / "tfds")}
    sources = sources_from_flags(values | {"dataset": "tfds:local_text"})
    assert sources["train"][0].records[3]["id"].decode() == f"{train}:4"
    prepare(sources, "bytes", "file", tmp_path / "a", workers=1, shard_tokens=40)
    make([train], tmp_path / "b", valid=[valid], boundary="file")
    a, b = contents(tmp_path / "a"), contents(tmp_path / "b")
    assert a.pop(INDEX) != b.pop(INDEX) and a == b and len(a) > 4
    assert "tensorflow" not in sys.modules
    with pytest.raises(ValueError, match="dataset: wanted tfds:NAME of a data set, got 'morse'"):
        sources_from_flags(values | {"dataset": "tfds:morse"})


def test_sources_are_files_or_a_data_set(monkeypatch):
    values = {"data": [], "valid_data": [], "test_data": [], "dataset_dir": None, "dataset": None}
    for changes, message in (
        ({}, "data: wanted either files"),
        ({"data": ["x"], "dataset": "tfds:y"}, "data: wanted either files"),
        ({"valid_data": ["x"], "dataset": "tfds:y"}, "dataset: brings its own splits"),
        ({"dataset": "hub:y"}, "dataset: wanted tfds:NAME, got 'hub:y'"),
    ):
        with pytest.raises(ValueError, match=message):
            sources_from_flags(values | changes)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    monkeypatch.delitem(sys.modules, "experiments.text.tfds_text", raising=False)
    with pytest.raises(ImportError, match="dataset: wanted the package tensorflow-datasets: pip"):
        sources_from_flags(values | {"dataset": "tfds:y"})


def test_the_command(tmp_path):
    """In processes of its own, as a user runs it."""
    (tmp_path / "wiki.txt").write_text(WIKI)
    command = [sys.executable, "-W", "error", "-m", "experiments.prepare_data"]
    command += [f"--data={tmp_path / 'wiki.txt'}", "--documents=title", f"--out={tmp_path / 'o'}"]
    done = subprocess.run(
        [*command, "--tokenizer=bytes", "--workers=2"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    size = len(WIKI.encode()) - 1
    counts = {"tokens": size + 2, "documents": 2, "text_bytes": size}
    assert json.loads(done.stdout) == {"train": counts}
    assert "100%" in done.stderr and "tokens" in done.stderr
