# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Text continued by a model: stop strings, and text that is shown while it comes."""

import codecs
from collections.abc import Callable, Sequence

import jax

from deltanet_jax.decoder import Decoder
from deltanet_jax.generate import stream
from deltanet_jax.model import LanguageModel
from deltanet_jax.sampling import Sampling
from experiments.text.tokenizers import Tokenizer


class Continuation:
    """The text after one prompt, from its tokens as they come.

    Attributes:
        text: what is certain: characters whose bytes are all there, without what may yet turn out
            to be the beginning of a stop string.
        finished: a stop string, or the end of the document, was reached.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int], stop: Sequence[str]):
        self.text = ""
        self.finished = False
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        # Of the prompt's ids too, as what a token reads may depend on what is before it.
        self._ids = list(prompt)
        self._bytes_done = len(tokenizer.decode_bytes(self._ids))
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""

    def add(self, ids: Sequence[int]) -> str:
        """What `ids` add to `text`; nothing after the end."""
        if self.finished:
            return ""
        ids = list(ids)
        ended = self._tokenizer.document_start in ids
        if ended:  # where the next document starts, this one ends
            ids = ids[: ids.index(self._tokenizer.document_start)]
        # A model may have ids beyond the tokenizer's, to make its vocabulary a round number.
        self._ids += [i for i in ids if i < self._tokenizer.vocab_size]
        new = self._tokenizer.decode_bytes(self._ids)[self._bytes_done :]
        self._bytes_done += len(new)
        self._held += self._decoder.decode(new)
        starts = [self._held.find(stop) for stop in self._stop if stop in self._held]
        if starts:
            self._held = self._held[: min(starts)]
            self.finished = True
            return self._release(len(self._held))
        return self.finish() if ended else self._release(len(self._held) - self._undecided())

    def finish(self) -> str:
        """What was held back, as nothing follows; added to `text`."""
        if self.finished:
            return ""
        self.finished = True
        self._held += self._decoder.decode(b"", final=True)
        return self._release(len(self._held))

    def _undecided(self) -> int:
        """Characters at the end that a stop string may begin with."""
        sizes = [
            size
            for stop in self._stop
            for size in range(1, len(stop))
            if self._held.endswith(stop[:size])
        ]
        return max(sizes, default=0)

    def _release(self, count: int) -> str:
        released, self._held = self._held[:count], self._held[count:]
        self.text += released
        return released


def complete(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    max_tokens: int,
    *,
    key: jax.Array,
    sampling: Sampling,
    stop: Sequence[str] = (),
    decoder: Decoder | None = None,
    on_text: Callable[[int, str], None] = lambda row, text: None,
) -> list[str]:
    """The text that follows each prompt, up to a stop string, the document's end or `max_tokens`.

    Args:
        prompts: ids of each row, with whatever starts a document.
        key, sampling, decoder: of `deltanet_jax.generate.stream`.
        stop: strings before which a text ends; none is empty.
        on_text: called with the row and its next piece, as soon as it is certain.
    Raises:
        ValueError: an empty stop string, or what `stream` refuses.
    """
    if "" in stop:
        raise ValueError("stop: wanted strings of at least one character, got an empty one")
    rows = [Continuation(tokenizer, prompt, stop) for prompt in prompts]
    options = {"key": key, "sampling": sampling, "decoder": decoder}
    for new in stream(model, prompts, max_tokens, **options):
        for row, continuation in enumerate(rows):
            if piece := continuation.add(new[row].tolist()):
                on_text(row, piece)
        if all(continuation.finished for continuation in rows):
            break
    for row, continuation in enumerate(rows):
        if piece := continuation.finish():
            on_text(row, piece)
    return [continuation.text for continuation in rows]


def document(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids of a document that begins with `text`."""
    return [tokenizer.document_start, *tokenizer.encode(text)]
