# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Log-likelihoods and completions of a model: few compiled shapes, nothing computed twice.

Conventions are lm-evaluation-harness 0.4.13's (`TemplateLM`, `HFLM`). Every context starts with the
tokenizer's `document_start`, as documents do in training.
"""

import functools
import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tqdm import tqdm

from deltanet_jax.generate import bucket
from deltanet_jax.model import LanguageModel
from deltanet_jax.sampling import Sampling
from deltanet_jax.train.files import write_atomically
from experiments.text.completion import complete
from experiments.text.tokenizers import Tokenizer
from experiments.text.wikitext import rolling_windows

MAX_ROWS = 256
SHORTEST, FEWEST = 64, 16  # buckets of input tokens and of predicted tokens
LOGITS_BLOCK = 8  # positions of a row whose logits are in memory at a time; divides every bucket
Pair = tuple[tuple[int, ...], tuple[int, ...]]


def encode_pair(tokenizer: Tokenizer, context: str, continuation: str) -> Pair:
    """(ids of the context, ids of the continuation), cut where the context's own ids end.

    Spaces at the context's end go to the continuation, where tokenizers put them.
    """
    spaces = len(context) - len(context.rstrip())
    if spaces:
        continuation = context[-spaces:] + continuation
        context = context[:-spaces]
    first = tokenizer.encode(context)
    whole = tokenizer.encode(context + continuation)
    return (tokenizer.document_start, *first), tuple(whole[len(first) :])


def rolling_pairs(tokenizer: Tokenizer, text: str, max_length: int) -> list[Pair]:
    """`rolling_windows` of a text, as pairs."""
    windows = rolling_windows(tokenizer.encode(text), tokenizer.document_start, max_length)
    return [
        (tuple(inputs[: len(inputs) - len(targets) + 1]), tuple(targets))
        for inputs, targets in windows
    ]


class Results:
    """Results by a hash of what was asked, in a file of JSON lines that survives interruptions.

    Args:
        path: the file; None keeps results in memory alone.
        of: whatever else the results depend on (weights, tokenizer, lengths), as text.
    Raises:
        ValueError: a line of the file is damaged; names it.
    """

    def __init__(self, path: Path | None, of: str):
        self._path, self._of = path, of
        self._found: dict[str, list] = {}
        if path is None or not path.exists():
            return
        for number, line in enumerate(path.read_bytes().splitlines(keepends=True), start=1):
            if line.endswith(b"\n"):  # else its writing was interrupted
                self._take(line, f"workdir: {path}:{number}")
        write_atomically(path, "".join(self._line(key) for key in self._found))

    def _take(self, line: bytes, where: str) -> None:
        try:
            row = json.loads(line)
            key, result = row["key"], row["result"]
            if not isinstance(key, str) or not isinstance(result, list):
                raise TypeError("wrong types")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(
                f"{where}: wanted an answer that an evaluation kept, got {line[:40]!r}; without "
                "the file all is asked again"
            ) from error
        self._found[key] = result

    def key(self, request: object) -> str:
        """The hash of a request of plain JSON values."""
        return hashlib.sha256(json.dumps([self._of, request]).encode()).hexdigest()

    def __contains__(self, key: str) -> bool:
        return key in self._found

    def __getitem__(self, key: str) -> list:
        return self._found[key]

    def add(self, results: dict[str, list]) -> None:
        """Keeps results, on disk when this returns."""
        self._found |= results
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a") as file:
                file.writelines(self._line(key) for key in results)

    def _line(self, key: str) -> str:
        return json.dumps({"key": key, "result": self._found[key]}) + "\n"


class Scorer:
    """Answers the three kinds of requests with one model.

    Args:
        model, tokenizer: a model and the tokenizer of its tokens.
        max_length: tokens that a prediction may see; contexts keep their ends.
        batch_tokens: tokens of a batch.
        results: where results are kept, and found when a run starts again.
    """

    def __init__(
        self,
        model: LanguageModel,
        tokenizer: Tokenizer,
        *,
        max_length: int,
        batch_tokens: int,
        results: Results,
    ):
        for name, value in (("max_length", max_length), ("batch_tokens", batch_tokens)):
            if value < 1:
                raise ValueError(f"{name}: wanted at least 1, got {value}")
        self.model, self.tokenizer, self.max_length = model, tokenizer, max_length
        self._batch_tokens = batch_tokens
        self._results = results
        self._graphdef, self._weights = nnx.split(model)

    def loglikelihoods(self, pairs: Sequence[Pair]) -> list[tuple[float, bool]]:
        """Of each continuation after its context: (log probability, whether it is greedy)."""
        keys = [self._results.key([*pair]) for pair in pairs]
        missing = {
            key: pair for key, pair in zip(keys, pairs, strict=True) if key not in self._results
        }
        with tqdm(total=len(missing), unit="request", desc="log-likelihoods") as progress:
            for batch in self._batches(missing):
                scores = self._score([missing[key] for key in batch])
                self._results.add(dict(zip(batch, scores, strict=True)))
                progress.update(len(batch))
        return [(score, greedy) for score, greedy in (self._results[key] for key in keys)]

    def rolling(self, texts: Sequence[str]) -> list[float]:
        """The log probability of each text."""
        windows = [rolling_pairs(self.tokenizer, text, self.max_length) for text in texts]
        scores = iter(self.loglikelihoods([pair for pairs in windows for pair in pairs]))
        return [sum(next(scores)[0] for _ in pairs) for pairs in windows]

    def completions(
        self, contexts: Sequence[str], stop: Sequence[str], max_tokens: int, sampling: Sampling
    ) -> list[str]:
        """What the model writes after each context, up to `stop` or `max_tokens`."""
        room = self.max_length - max_tokens
        if room < 1:
            raise ValueError(
                f"max_length: wanted more than the {max_tokens} tokens to write, "
                f"got {self.max_length}"
            )
        start, options = (
            self.tokenizer.document_start,
            [*stop, max_tokens, *sampling.to_dict().items()],
        )
        prompts = [[start, *self.tokenizer.encode(text)][-room:] for text in contexts]
        keys = [self._results.key(["complete", prompt, options]) for prompt in prompts]
        missing = {
            key: prompt
            for key, prompt in zip(keys, prompts, strict=True)
            if key not in self._results
        }
        order = sorted(missing, key=lambda key: -len(missing[key]))
        with tqdm(total=len(missing), unit="request", desc="completions") as progress:
            while order:
                rows = self._rows(bucket(len(missing[order[0]])))
                batch, order = order[:rows], order[rows:]
                texts = complete(
                    self.model,
                    self.tokenizer,
                    [missing[key] for key in batch],
                    max_tokens,
                    key=jax.random.key(0),
                    sampling=sampling,
                    stop=stop,
                )
                self._results.add({key: [text] for key, text in zip(batch, texts, strict=True)})
                progress.update(len(batch))
        return [self._results[key][0] for key in keys]

    def _rows(self, length: int) -> int:
        return max(1, min(MAX_ROWS, self._batch_tokens // length))

    def _batches(self, pairs: dict[str, Pair]) -> Iterator[list[str]]:
        """Keys of pairs with one shape, longest first: what does not fit in memory fails early."""
        groups = defaultdict(list)
        for key, pair in pairs.items():
            groups[self._shape(pair)].append(key)
        for shape in sorted(groups, reverse=True):
            rows = self._rows(shape[0])
            for start in range(0, len(groups[shape]), rows):
                yield groups[shape][start : start + rows]

    def _shape(self, pair: Pair) -> tuple[int, int]:
        """(input tokens, predicted tokens), each in a bucket: by the pair alone, so that a result
        does not depend on what else is asked."""
        context, continuation = pair
        length = min(len(context) + len(continuation) - 1, self.max_length)
        predicted = min(len(continuation), self.max_length)
        return power_of_two(length, SHORTEST), power_of_two(predicted, FEWEST)

    def _score(self, pairs: list[Pair]) -> list[list]:
        """[log probability, greedy] of pairs of one shape."""
        length, predicted = self._shape(pairs[0])
        rows = self._rows(length)
        tokens = np.zeros((rows, length), np.int32)
        first = np.zeros((rows,), np.int32)
        targets = np.zeros((rows, predicted), np.int32)
        for row, (context, continuation) in enumerate(pairs):
            inputs = (*context, *continuation)[-self.max_length - 1 : -1]
            kept = continuation[-len(inputs) :]
            tokens[row, : len(inputs)] = inputs
            first[row] = len(inputs) - len(kept)
            targets[row, : len(kept)] = kept
        features = text_features(self._graphdef, self._weights, tokens)
        logp, best = jax.device_get(
            log_probabilities(self._graphdef, self._weights, features, first, targets)
        )
        found = []
        for row, (_, continuation) in enumerate(pairs):
            count = min(len(continuation), self.max_length)
            total = float(np.sum(logp[row, :count], dtype=np.float64))
            found.append([total, bool(best[row, :count].all())])
        return found


def power_of_two(length: int, least: int) -> int:
    """The least power of two that is at least `length` and `least`. On a GPU the layers' kernels
    take seconds to compile for a shape, longer than padding takes to compute."""
    return max(least, 1 << (length - 1).bit_length() if length > 1 else 1)


@functools.partial(jax.jit, static_argnums=0)
def text_features(graphdef, weights, tokens):
    """The model's features [B, T, D] of tokens [B, T]; a program of its own, for it takes longest
    to compile and does not depend on how many tokens are predicted."""
    return nnx.merge(graphdef, weights).features(tokens)[0]


@functools.partial(jax.jit, static_argnums=0)
def log_probabilities(graphdef, weights, features, first, targets):
    """For `targets` [B, C], the tokens after positions first, first + 1, ... of a text's features
    [B, T, D]: (log probability, whether it is the most likely token), each [B, C]. C is a multiple
    of LOGITS_BLOCK; logits exist for so many positions of each row at a time."""
    model = nnx.merge(graphdef, weights)
    count = targets.shape[1]
    index = jnp.minimum(first[:, None] + jnp.arange(count)[None], features.shape[1] - 1)
    features = jnp.take_along_axis(features, index[..., None], axis=1)

    def blocks(x):
        x = x.reshape(x.shape[0], count // LOGITS_BLOCK, LOGITS_BLOCK, *x.shape[2:])
        return jnp.moveaxis(x, 1, 0)

    def block(arguments):
        features, targets = arguments
        logits = model.logits(features).astype(jnp.float32)
        chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
        best = jnp.argmax(logits, axis=-1) == targets
        return chosen - jax.nn.logsumexp(logits, axis=-1), best

    logp, best = jax.lax.map(block, (blocks(features), blocks(targets)))
    return tuple(jnp.moveaxis(x, 0, 1).reshape(targets.shape) for x in (logp, best))
