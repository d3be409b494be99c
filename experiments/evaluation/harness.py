# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The scorer as a model of lm-evaluation-harness, whose tasks, metrics and tables then apply.

Written against lm_eval 0.4.13, which is optional: requirements-eval.txt. It needs no PyTorch.
"""

import os
from collections import defaultdict
from collections.abc import Sequence

from deltanet_jax.sampling import Sampling
from experiments.evaluation.scoring import Scorer

try:
    from lm_eval import simple_evaluate
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import TemplateLM
    from lm_eval.tasks import TaskManager
except ImportError as error:
    raise ImportError(
        "harness: wanted the package lm_eval: pip install -r requirements-eval.txt"
    ) from error

MAX_GEN_TOKS = 256  # the harness's default
BOOTSTRAPS = 1000


class HarnessModel(TemplateLM):
    """A `Scorer` that answers the harness's requests, in one process."""

    def __init__(self, scorer: Scorer):
        super().__init__()
        self._scorer = scorer
        self._start = scorer.tokenizer.document_start

    @property
    def eot_token_id(self) -> int:
        return self._start

    @property
    def tokenizer_name(self) -> str:
        """Names the tokenizer in the harness's cache of requests."""
        return self._scorer.tokenizer.digest

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs
    ) -> list[int]:
        """Ids without `document_start`, which goes before every context in the end."""
        del add_special_tokens, kwargs
        return self._scorer.tokenizer.encode(string)

    def _loglikelihood_tokens(self, requests, **kwargs) -> list[tuple[float, bool]]:
        """Of (strings, ids of the context, ids of the continuation) each."""
        del kwargs
        pairs = []
        for _, context, continuation in requests:
            before = () if context[:1] == [self._start] else (self._start,)
            pairs.append(((*before, *context), tuple(continuation)))
        answers = self._scorer.loglikelihoods(pairs)
        for (strings, _, _), answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("loglikelihood", strings, answer)
        return answers

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """The log probability of every text, in windows that do not overlap."""
        del disable_tqdm
        answers = self._scorer.rolling([request.args[0] for request in requests])
        for request, answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, answer)
        return answers

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """What the model writes after every context, up to one of `until`."""
        del disable_tqdm
        groups = defaultdict(list)  # those with the same options side by side
        for index, request in enumerate(requests):
            groups[_options(request.args[1])].append(index)
        answers = [""] * len(requests)
        for (stop, max_tokens, sampling), indices in groups.items():
            contexts = [requests[i].args[0] for i in indices]
            texts = self._scorer.completions(contexts, stop, max_tokens, sampling)
            for index, text in zip(indices, texts, strict=True):
                answers[index] = text
                self.cache_hook.add_partial("generate_until", requests[index].args, text)
        return answers


def _options(arguments: dict) -> tuple[tuple[str, ...], int, Sampling]:
    """(stop strings, most tokens, sampling) of a task's generation arguments."""
    until = arguments.get("until") or ()
    stop = (until,) if isinstance(until, str) else tuple(until)
    sampling = Sampling(temperature=0.0)
    if arguments.get("do_sample") and arguments.get("temperature", 1.0) > 0:
        names = ("temperature", "top_k", "top_p")
        sampling = Sampling(**{k: arguments[k] for k in names if k in arguments})
    return stop, int(arguments.get("max_gen_toks", MAX_GEN_TOKS)), sampling


def run_harness(
    scorer: Scorer, tasks: Sequence[str], include_path: str | None, limit: int | None
) -> dict[str, dict[str, object]]:
    """The harness's figures of each of its `tasks`, and of those defined in `include_path`.

    Raises:
        ValueError: a task that the harness does not know.
    """
    manager = TaskManager(include_path=include_path)
    for task in tasks:
        if task not in manager.all_tasks:
            raise ValueError(f"tasks: wanted tasks of lm-evaluation-harness, got {task!r}")
    # Its bootstraps would fork this process, whose threads JAX runs on.
    os.environ.setdefault("DISABLE_MULTIPROC", "1")
    found = simple_evaluate(
        model=HarnessModel(scorer),
        tasks=list(tasks),
        task_manager=manager,
        limit=limit,
        bootstrap_iters=BOOTSTRAPS,
        log_samples=False,
    )
    return {
        name: {k.removesuffix(",none"): v for k, v in figures.items()}
        for name, figures in found["results"].items()
    }
