# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Tokenizers: against byte-pair merging written out, round trips, special text, bad files."""

import base64
import hashlib
import json
import re
import sys

import pytest
import sentencepiece

from experiments.text.tokenizers import load_tokenizer

TEXTS = [
    "",
    "x",
    "The delta rule corrects what it wrote.",
    " leading, trailing \n\n= Title =\n",
    "élan, 数学, emoji 🙂 and\ttabs",
    "<s> </s> <unk> <|endoftext|> <0x41>",
]
MERGES = ["t h", "th e", "Ġ the", "e l", "el t", "elt a", "d elta", "Ġ r", "i n"]


def gpt2_characters():
    """The printable character of every byte, from GPT-2's published rule."""
    kept = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1)]
    kept += range(ord("®"), ord("ÿ") + 1)
    others = [b for b in range(256) if b not in kept]
    return {**{b: chr(b) for b in kept}, **{b: chr(256 + i) for i, b in enumerate(others)}}


def write_gpt2(folder, merges=MERGES):
    characters = gpt2_characters()
    ids = {c: i for i, c in enumerate(characters.values())}
    ids |= {merge.replace(" ", ""): 256 + i for i, merge in enumerate(merges)}
    ids["<|endoftext|>"] = len(ids)
    (folder / "encoder.json").write_text(json.dumps(ids))
    (folder / "vocab.bpe").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    return ids


def merge_naively(text, ids, merges):
    """GPT-2's algorithm: split into words, then always the earliest merge that applies."""
    characters = gpt2_characters()
    words = re.findall(
        r"'s|'t|'re|'ve|'m|'ll|'d| ?[^\W\d_]+| ?\d+| ?(?:[^\s\w]|_)+|\s+(?!\S)|\s+", text
    )
    encoded = []
    for word in words:
        parts = [characters[b] for b in word.encode()]
        for left, right in (merge.split() for merge in merges):
            i = 0
            while i < len(parts) - 1:
                if parts[i : i + 2] == [left, right]:
                    parts[i : i + 2] = [left + right]
                i += 1
        encoded += [ids[p] for p in parts]
    return encoded


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpt2")
    write_gpt2(folder)
    return folder


@pytest.fixture(scope="module")
def sentencepiece_file(tmp_path_factory):
    """A model with byte fallback and Mistral's options, trained on next to nothing."""
    folder = tmp_path_factory.mktemp("sentencepiece")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the delta rule corrects what it wrote"] * 5),
        model_prefix=str(folder / "tiny"),
        model_type="bpe",
        vocab_size=300,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    return folder / "tiny.model"


@pytest.fixture(params=["bytes", "gpt2", "sentencepiece_file"])
def tokenizer(request):
    name = "bytes" if request.param == "bytes" else str(request.getfixturevalue(request.param))
    return load_tokenizer(name)


@pytest.mark.parametrize("text", TEXTS)
def test_decoding_undoes_encoding(tokenizer, text):
    ids = tokenizer.encode(text)
    assert all(0 <= i < tokenizer.vocab_size for i in ids)
    assert tokenizer.document_start not in ids
    assert tokenizer.decode([tokenizer.document_start, *ids]) == text
    assert tokenizer.decode_bytes(ids) == text.encode()


def test_cut_characters_do_not_raise(tokenizer):
    ids = tokenizer.encode("🙂")
    assert tokenizer.decode(ids[:-1]) == "\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize("text", TEXTS)
def test_gpt2_merges_by_rank(gpt2, text):
    ids = json.loads((gpt2 / "encoder.json").read_text())
    assert load_tokenizer(str(gpt2)).encode(text) == merge_naively(text, ids, MERGES)
    assert merge_naively("the delta", ids, MERGES[::-1]) != merge_naively("the delta", ids, MERGES)


def test_tiktoken_files_are_the_same_encoding(gpt2, tmp_path):
    inverse = {c: b for b, c in gpt2_characters().items()}
    ids = json.loads((gpt2 / "encoder.json").read_text())
    del ids["<|endoftext|>"]
    rows = {bytes(inverse[c] for c in token): rank for token, rank in ids.items()}
    file = tmp_path / "tiny.tiktoken"
    lines = (f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in rows.items())
    file.write_text("".join(lines))
    ours, folder = load_tokenizer(str(file)), load_tokenizer(str(gpt2))
    assert [ours.encode(t) for t in TEXTS] == [folder.encode(t) for t in TEXTS]
    assert ours.digest == hashlib.sha256(file.read_bytes()).hexdigest() != folder.digest


def test_sentencepiece_is_the_library(sentencepiece_file):
    library = sentencepiece.SentencePieceProcessor(model_file=str(sentencepiece_file))
    ours = load_tokenizer(str(sentencepiece_file))
    assert ours.document_start == library.bos_id() == 1
    assert ours.digest == hashlib.sha256(sentencepiece_file.read_bytes()).hexdigest()
    for text in TEXTS:
        assert ours.encode(text) == library.encode(text)
        assert ours.decode(ours.encode(text)) == library.decode(library.encode(text))


def test_zero_bytes_are_refused():
    with pytest.raises(ValueError, match="data: wanted text, got a zero byte"):
        load_tokenizer("bytes").encode("a\0b")


def test_bad_names_and_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r'tokenizer: wanted "bytes".*nothing'):
        load_tokenizer("nothing")
    with pytest.raises(ValueError, match=r"tokenizer: wanted one \*encoder.json"):
        load_tokenizer(str(tmp_path))
    model = tmp_path / "a.model"
    model.write_bytes(b"\xff\x00 no model")
    with pytest.raises(ValueError, match="tokenizer: .*wanted a SentencePiece model"):
        load_tokenizer(str(model))
    for text, message in (("?? 1", "BASE64 RANK"), ("YQ== 0", "every byte")):
        (tmp_path / "a.tiktoken").write_text(text)
        with pytest.raises(ValueError, match=f"tokenizer: .*{message}"):
            load_tokenizer(str(tmp_path / "a.tiktoken"))
    write_gpt2(tmp_path)
    (tmp_path / "vocab.bpe").write_text("\n".join(["#version: 0.2", *MERGES[::-1]]))
    with pytest.raises(ValueError, match=r"tokenizer: .*in vocab.bpe's order"):
        load_tokenizer(str(tmp_path))
    (tmp_path / "encoder.json").write_text("[]")
    with pytest.raises(ValueError, match="tokenizer: .*wanted GPT-2's"):
        load_tokenizer(str(tmp_path))


def test_a_missing_package_is_named(gpt2, monkeypatch):
    monkeypatch.setitem(sys.modules, "tiktoken", None)
    with pytest.raises(ImportError, match="pip install tiktoken"):
        load_tokenizer(str(gpt2))
