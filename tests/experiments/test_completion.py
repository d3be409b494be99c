# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Text from tokens as they come: stop strings across pieces, characters of several bytes."""

import itertools
import types

import jax
import pytest

from deltanet_jax.sampling import Sampling
from experiments.generate import check_options, read_prompts
from experiments.text.completion import Continuation, complete, document
from experiments.text.lines import read_json_lines
from experiments.text.tokenizers import load_tokenizer
from tests.helpers.models import MIXERS, small_model

BYTES = load_tokenizer("bytes")


def shown(text: bytes, sizes, stop=()):
    """(everything that was released, whether it ended by itself), fed in pieces of `sizes`."""
    continuation = Continuation(BYTES, document(BYTES, "a prompt"), stop)
    pieces, sizes = [], itertools.cycle(sizes)
    while text:
        size = next(sizes)
        pieces.append(continuation.add(list(text[:size])))
        text = text[size:]
    finished = continuation.finished
    pieces.append(continuation.finish())
    assert "".join(pieces) == continuation.text
    return continuation.text, finished


@pytest.mark.parametrize("sizes", [(1,), (2, 3), (100,)])
@pytest.mark.parametrize(
    ("text", "stop", "wanted", "finished"),
    [
        ("one\ntwo", ("\n",), "one", True),
        ("one END two", ("END",), "one ", True),
        ("one EN two E", ("END",), "one EN two E", False),  # what looked like a stop, and was none
        ("ababac", ("abac",), "ab", True),
        ("b a", ("a", "b "), "", True),  # the first to appear, not the first named
        ("grüße 😀", (), "grüße 😀", False),
        ("one\0two", (), "one", True),  # the next document
        ("one EN\0two", ("END",), "one EN", True),
    ],
)
def test_text_ends_before_the_first_stop_however_it_comes(sizes, text, stop, wanted, finished):
    assert shown(text.encode(), sizes, stop) == (wanted, finished)


def test_bytes_that_are_no_text_become_replacement_characters():
    assert shown(b"a\xf0\x9f", (1,)) == ("a�", False)


def test_nothing_is_shown_that_a_stop_string_may_take_back():
    continuation = Continuation(BYTES, document(BYTES, ""), ("END",))
    assert [continuation.add([byte]) for byte in b"aENb"] == ["a", "", "", "ENb"]


def test_completions_stop_row_by_row():
    model = small_model(MIXERS["delta_net"], vocab_size=256)
    prompts = [document(BYTES, text) for text in ("one", "two, longer")]
    options = {"key": jax.random.key(0), "sampling": Sampling(temperature=0.0)}
    pieces = {0: "", 1: ""}

    def collect(row, text):
        pieces[row] += text

    whole = complete(model, BYTES, prompts, 20, on_text=collect, **options)
    assert list(pieces.values()) == whole and all(whole)
    stop = whole[0][3]
    cut = complete(model, BYTES, prompts, 20, stop=[stop], **options)
    assert cut == [text.split(stop)[0] for text in whole]
    with pytest.raises(ValueError, match="^stop: wanted strings of at least one character"):
        complete(model, BYTES, prompts, 20, stop=[""], **options)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.txt", "", "wanted at least one prompt"),
        ("p.jsonl", '{"text": "a"}\n', 'wanted a "prompt" with text in every line'),
        ("p.jsonl", '{"prompt": 1}\n', 'wanted a "prompt" with text in every line'),
        ("p.jsonl", '\n{"prompt"\n', "p.jsonl:2: wanted JSON"),
        ("p.jsonl", "[1]\n", "p.jsonl:1: wanted a JSON object"),
    ],
)
def test_prompts_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=f"^prompts_file: .*{message}"):
        read_prompts(str(tmp_path / name))


def test_prompts_are_read(tmp_path):
    (tmp_path / "p.txt").write_text("one\ntwo\n")
    (tmp_path / "p.jsonl").write_text('{"prompt": "one"}\n\n{"prompt": "two\\nlines"}\n')
    assert read_prompts(str(tmp_path / "p.txt")) == ["one", "two"]
    assert read_prompts(str(tmp_path / "p.jsonl")) == ["one", "two\nlines"]
    assert read_json_lines(tmp_path / "p.jsonl", "data") == [
        {"prompt": "one"},
        {"prompt": "two\nlines"},
    ]
    with pytest.raises(ValueError, match="^prompts_file: wanted a file"):
        read_prompts(str(tmp_path / "nothing"))
    (tmp_path / "p.txt").write_bytes(b"one\n\xff\n")
    with pytest.raises(ValueError, match="^prompts_file: .*p.txt: wanted UTF-8"):
        read_prompts(str(tmp_path / "p.txt"))


def test_ids_that_the_tokenizer_has_not_are_nothing():
    """A model's vocabulary may be larger than its tokenizer's; any id may be drawn."""
    continuation = Continuation(BYTES, document(BYTES, "a"), ())
    assert continuation.add([98, BYTES.vocab_size, 99, 4000]) == "bc"
    assert not continuation.finished


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sample_tokens": 0}, "sample_tokens: wanted at least 1, got 0"),
        ({"top_p": 1.5}, "top_p: wanted more than 0, at most 1, got 1.5"),
        ({"prompt": "a", "prompts_file": "b"}, "prompt: wanted either --prompt or"),
        ({"output_file": "c"}, "output_file: wanted --prompts_file with it, got none"),
        ({"output_file": "no/c", "prompts_file": "b"}, "output_file: wanted it in a folder, got"),
    ],
)
def test_flags_that_come_to_nothing_are_refused(values, message):
    """Before anything is restored, or generated and then lost."""
    possible = {"sample_tokens": 5, "temperature": 0.0, "top_k": 0, "top_p": 1.0}
    possible |= {"prompt": "", "prompts_file": None, "output_file": None}
    check_options(types.SimpleNamespace(**possible))
    check_options(types.SimpleNamespace(**possible | {"prompts_file": "b", "output_file": "c"}))
    with pytest.raises(ValueError, match=f"^{message}"):
        check_options(types.SimpleNamespace(**possible | values))
