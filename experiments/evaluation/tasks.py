# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The tasks: what is asked about each document of a local file, as lm-evaluation-harness 0.4.13
words it.

A file's documents have the fields of the published data set, or those of the copies named in
`Task.files`. What has a "query" is asked as that is worded, which need not be the harness's way;
`copa`, `siqa` and `commonsense_qa` are read in no other form.
"""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

from experiments.text.documents import OPENERS
from experiments.text.lines import read_json_lines
from experiments.text.wikitext import Page, read_pages

COMPLETION_TOKENS = 48


@dataclasses.dataclass(frozen=True)
class Choice:
    """A question with answers to choose from.

    Attributes:
        contexts, continuations: of every choice.
        gold: index of the right one.
        lengths: characters by which `acc_norm` divides; None where the task has none.
    """

    contexts: tuple[str, ...]
    continuations: tuple[str, ...]
    gold: int
    lengths: tuple[int, ...] | None

    def __post_init__(self):
        if not 0 <= self.gold < len(self.continuations):  # test splits without answers have -1
            raise ValueError(f"gold: wanted one of {len(self.continuations)}, got {self.gold}")


@dataclasses.dataclass(frozen=True)
class Target:
    """One continuation to be predicted."""

    context: str
    continuation: str


@dataclasses.dataclass(frozen=True)
class Completion:
    """A text to be written, up to a newline, that should contain one of `answers`."""

    context: str
    answers: tuple[str, ...]


Question = Choice | Target | Page | Completion


@dataclasses.dataclass(frozen=True)
class Task:
    """Attributes:
    files: names (without .jsonl, .json and compression) that its file may have, in order.
    question: a document as a question.
    documents: how the file is read, if not as JSON lines.
    """

    files: tuple[str, ...]
    question: Callable[[dict], Question]
    documents: Callable[[Path], list[dict]] | None = None


def _choices(context: str, choices: list[str], gold: int, norm: bool = True) -> Choice:
    return Choice(
        contexts=(context,) * len(choices),
        continuations=tuple(" " + choice for choice in choices),
        gold=int(gold),
        lengths=tuple(len(choice) for choice in choices) if norm else None,
    )


def _lambada(doc: dict) -> Target:
    *words, last = doc["text"].split(" ")
    return Target(" ".join(words), " " + last)


def _piqa(doc: dict) -> Choice:
    choices = [doc["sol1"], doc["sol2"]]
    return _choices(f"Question: {doc['goal']}\nAnswer:", choices, doc["label"])


def _clean_hellaswag(text: str) -> str:
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


def _hellaswag(doc: dict) -> Choice:
    if "query" in doc:  # joined and cleaned
        return _choices(doc["query"], doc["endings"], doc["label"])
    context = f"{doc['activity_label']}: {doc['ctx_a']} {doc['ctx_b'].capitalize()}"
    endings = [_clean_hellaswag(ending) for ending in doc["endings"]]
    return _choices(_clean_hellaswag(context), endings, doc["label"])


def _winogrande(doc: dict) -> Choice:
    """Each option fills the blank, and what follows is scored (Trinh, Le 2018)."""
    if "sentence" in doc:
        before, after = doc["sentence"].split("_", 1)
        contexts = (before + doc["option1"], before + doc["option2"])
        continuation, gold = after.strip(), int(doc["answer"]) - 1
    else:
        contexts, continuation = tuple(doc["context_options"]), doc["continuation"]
        gold = doc["gold"]
    return Choice(contexts, (" " + continuation,) * 2, gold, None)


def _arc(doc: dict) -> Choice:
    choices = doc["choices"]
    if isinstance(choices, dict):
        gold, choices = choices["label"].index(doc["answerKey"]), choices["text"]
    else:
        gold = doc["gold"]
    return _choices(f"Question: {doc['question']}\nAnswer:", choices, gold)


def _boolq(doc: dict) -> Choice:
    if "query" in doc:
        context, gold = doc["query"].removeprefix("Passage: "), doc["gold"]
    else:
        context, gold = f"{doc['passage']}\nQuestion: {doc['question']}?", int(doc["answer"])
    return _choices(context + "\nAnswer:", ["no", "yes"], gold, norm=False)


def _openbookqa(doc: dict) -> Choice:
    if "query" in doc:
        return _choices(doc["query"], doc["choices"], doc["gold"])
    gold = doc["choices"]["label"].index(doc["answerKey"].strip())
    return _choices(doc["question_stem"], doc["choices"]["text"], gold)


def _query(doc: dict) -> Choice:
    """Documents that hold the question as it is asked; by accuracy alone."""
    return _choices(doc["query"], doc["choices"], doc["gold"], norm=False)


def _completion(doc: dict) -> Completion:
    return Completion(doc["text"].strip(), (doc["value"].strip(),))


def _squad(doc: dict) -> Completion:
    context = f"{doc['context']}\nQuestion: {doc['question']}\nAnswer:"
    # An answer is an object with its place in the file as published, its text in some copies.
    answers = tuple(a if isinstance(a, str) else a["text"] for a in doc["answers"])
    return Completion(context, answers)


def _read_squad(path: Path) -> list[dict]:
    """Every question of SQuAD v1.1's file, with its paragraph."""
    rows = read_json_lines(path, "data")
    try:
        (whole,) = rows
        return [
            {**question, "context": paragraph["context"]}
            for article in whole["data"]
            for paragraph in article["paragraphs"]
            for question in paragraph["qas"]
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"data: {path}: wanted one object as SQuAD v1.1 has: {error}") from error


def _read_piqa(path: Path) -> list[dict]:
    """Documents with their labels, which are in a file of their own beside, one a line."""
    docs = read_json_lines(path, "data")
    labels = path.with_name(path.name.split(".")[0] + "-labels.lst")
    if all("label" in doc for doc in docs):
        return docs
    if not labels.is_file():
        raise ValueError(f"data: wanted labels in {path}, or a file {labels}")
    answers = labels.read_text().split()
    if len(answers) != len(docs):
        raise ValueError(f"data: {labels}: wanted {len(docs)} labels, got {len(answers)}")
    return [doc | {"label": int(label)} for doc, label in zip(docs, answers, strict=True)]


def _read_wikitext(path: Path) -> list[dict]:
    return [page._asdict() for page in read_pages(path)]


def _wikitext(doc: dict) -> Page:
    return Page(**doc)


TASKS = {
    "lambada": Task(("lambada_test", "lambada"), _lambada),
    "piqa": Task(("piqa_valid", "piqa"), _piqa, _read_piqa),
    "hellaswag": Task(("hellaswag_val", "hellaswag"), _hellaswag),
    "winogrande": Task(("winogrande",), _winogrande),
    "arc_easy": Task(("arc_easy_test", "arc_easy"), _arc),
    "arc_challenge": Task(("arc_challenge_test", "arc_challenge"), _arc),
    "boolq": Task(("boolq",), _boolq),
    "openbookqa": Task(("openbook_qa", "openbookqa"), _openbookqa),
    "copa": Task(("copa",), _query),
    "siqa": Task(("siqa",), _query),
    "commonsense_qa": Task(("commonsense_qa",), _query),
    "swde": Task(("swde",), _completion),
    "fda": Task(("fda",), _completion),
    "squad_completion": Task(("squad_completion",), _completion),
    # Not the paper's column: questions of SQuAD's dev set, a stand-in for squad_completion.
    "squad_dev_containment": Task(("squad_v1.1_dev",), _squad, _read_squad),
    "wikitext": Task(("wiki.test.raw", "wikitext"), _wikitext, _read_wikitext),
}
SUFFIXES = ("", ".jsonl", ".json")


def find_file(task: Task, folder: Path) -> Path:
    """The task's file in `folder`. Raises ValueError if there is none."""
    names = [
        stem + suffix + packed
        for stem in task.files
        for suffix in SUFFIXES
        for packed in ("", *OPENERS)
    ]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    wanted = " or ".join(task.files)
    raise ValueError(f"data: wanted {wanted} (.jsonl, .json, packed or not) in {folder}, got none")


def read_questions(name: str, folder: Path, limit: int | None = None) -> list[Question]:
    """The questions of a task, the first `limit` of them.

    Raises:
        ValueError: an unknown task, no file, or a document that is not one of the task.
    """
    if name not in TASKS:
        raise ValueError(f"tasks: wanted some of {sorted(TASKS)}, got {name!r}")
    task = TASKS[name]
    path = find_file(task, folder)
    docs = task.documents(path) if task.documents else read_json_lines(path, "data")
    questions = []
    for number, doc in enumerate(docs[:limit], start=1):
        try:
            questions.append(task.question(doc))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(
                f"data: {path}: document {number} is none of {name}: {error}"
            ) from error
    if not questions:
        raise ValueError(f"data: {path}: wanted at least one document, got none")
    return questions
