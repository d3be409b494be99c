# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Answers to figures, with standard errors, as lm-evaluation-harness computes them."""

import math
import re
from collections.abc import Sequence

import numpy as np

from deltanet_jax.sampling import Sampling
from experiments.evaluation.scoring import Scorer, encode_pair
from experiments.evaluation.tasks import (
    COMPLETION_TOKENS,
    Choice,
    Completion,
    Question,
    Target,
)
from experiments.text.wikitext import Page

GREEDY = Sampling(temperature=0.0)


def mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
    """(mean, its standard error from the sample's deviation; None for one value)."""
    values = np.asarray(values, np.float64)
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return mean, None
    deviation = math.sqrt(math.fsum((values - mean) ** 2) / (len(values) - 1))
    return mean, deviation / math.sqrt(len(values))


def _figure(name: str, values: Sequence[float]) -> dict[str, float | None]:
    mean, error = mean_and_error(values)
    return {name: mean, f"{name}_stderr": error}


def score(questions: list[Question], scorer: Scorer) -> dict[str, float | None]:
    """The figures of one task's questions, which are all of one kind."""
    return _SCORES[type(questions[0])](questions, scorer)


def score_choices(questions: list[Choice], scorer: Scorer) -> dict[str, float | None]:
    """acc: the choice of the largest log probability is the right one; acc_norm: after division by
    its length in characters. The first of equals is chosen."""
    pairs = [
        encode_pair(scorer.tokenizer, context, continuation)
        for question in questions
        for context, continuation in zip(question.contexts, question.continuations, strict=True)
    ]
    scores = iter(scorer.loglikelihoods(pairs))
    right, right_norm = [], []
    for question in questions:
        logp = np.array([next(scores)[0] for _ in question.contexts])
        right.append(float(np.argmax(logp) == question.gold))
        if question.lengths is not None:
            best = np.argmax(logp / np.array(question.lengths, np.float64))
            right_norm.append(float(best == question.gold))
    return _figure("acc", right) | (_figure("acc_norm", right_norm) if right_norm else {})


def score_targets(questions: list[Target], scorer: Scorer) -> dict[str, float | None]:
    """acc: every token of the target is the most likely one; perplexity: exp(-mean log probability
    of a target). Its error is exp's slope times the mean's (the harness draws bootstraps)."""
    pairs = [encode_pair(scorer.tokenizer, q.context, q.continuation) for q in questions]
    scores = scorer.loglikelihoods(pairs)
    mean, error = mean_and_error([logp for logp, _ in scores])
    perplexity = math.exp(-mean)
    return _figure("acc", [float(greedy) for _, greedy in scores]) | {
        "perplexity": perplexity,
        "perplexity_stderr": None if error is None else perplexity * error,
    }


def score_texts(questions: list[Page], scorer: Scorer) -> dict[str, float | None]:
    """Perplexity of a word and of a byte, bits a byte: over all texts together."""
    logp = math.fsum(scorer.rolling([q.text for q in questions]))
    words, size = sum(q.words for q in questions), sum(q.bytes for q in questions)
    return {
        "word_perplexity": math.exp(-logp / words),
        "byte_perplexity": math.exp(-logp / size),
        "bits_per_byte": -logp / size / math.log(2),
    }


def score_completions(questions: list[Completion], scorer: Scorer) -> dict[str, float | None]:
    """contains: an answer stands in what the model writes, in any case of letters."""
    texts = scorer.completions([q.context for q in questions], ["\n"], COMPLETION_TOKENS, GREEDY)
    return _figure(
        "contains",
        [
            float(any(re.search(re.escape(a), text, re.IGNORECASE) for a in question.answers))
            for question, text in zip(questions, texts, strict=True)
        ],
    )


_SCORES = {
    Choice: score_choices,
    Target: score_targets,
    Page: score_texts,
    Completion: score_completions,
}
