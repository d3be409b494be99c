# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Tasks from local files: questions, scores against the definition, resumption, the harness."""

import dataclasses
import functools
import importlib
import importlib.util
import json
import math
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.evaluation import metrics
from experiments.evaluation.run import TaskOptions
from experiments.evaluation.scoring import Results, Scorer, encode_pair, rolling_pairs
from experiments.evaluation.tasks import Choice, Completion, Target, read_questions
from experiments.text.completion import complete, document
from experiments.text.tokenizers import load_tokenizer
from experiments.text.wikitext import Page, detokenize
from tests.helpers.models import MIXERS, small_model

BYTES = load_tokenizer("bytes")
ARC = [
    {"question": "What is wet?", "choices": ["water", "a dry stone", "fire"], "gold": 0},
    {"question": "Two and two?", "choices": ["five", "four"], "gold": 1},
    {"question": "And the third?", "choices": ["a", "bb", "ccc", "dddd"], "gold": 2},
]
LAMBADA = [{"text": "one two three"}, {"text": "the end of the\nworld"}]
PAGES = ["A page of some words.\n\nAnd a second paragraph, longer than the window.", "Short."]


@functools.cache
def model():
    return small_model(MIXERS["delta_net"], vocab_size=256, init_std=0.2)


def make_scorer(path=None, **options):
    options = {"max_length": 24, "batch_tokens": 64} | options
    return Scorer(model(), BYTES, results=Results(path, "model"), **options)


def write(folder, name, docs):
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in docs))


@nnx.jit
def parallel(model, tokens):
    return model(tokens)[0]


@functools.cache
def next_log_probabilities(inputs):
    """log softmax of the next token after `inputs`, in float64."""
    tokens = np.zeros((1, 24), np.int32)  # one shape; models are causal
    tokens[0, : len(inputs)] = inputs
    logits = np.asarray(parallel(model(), jnp.asarray(tokens))[0, len(inputs) - 1], np.float64)
    return logits - np.log(np.sum(np.exp(logits - logits.max()))) - logits.max()


def by_definition(context, continuation, max_length=24):
    """(log probability, greedy), a token at a time, each seeing max_length tokens of the pair."""
    whole = [*context, *continuation][-max_length - 1 :]
    total, greedy = 0.0, True
    for i in range(len(whole) - len(continuation), len(whole)):
        logp = next_log_probabilities(tuple(whole[:i]))
        total += logp[whole[i]]
        greedy &= int(np.argmax(logp)) == whole[i]
    return total, greedy


def test_pairs_are_cut_as_the_harness_cuts_them():
    assert encode_pair(BYTES, "ab ", "c") == ((0, 97, 98), (32, 99))
    assert encode_pair(BYTES, "", "c") == ((0,), (99,))
    # A tokenizer whose tokens may span the cut: what the context's ids leave is the continuation.
    pairs = types.SimpleNamespace(
        document_start=0, encode=lambda s: [len(s[i : i + 2]) for i in range(0, len(s), 2)]
    )
    assert encode_pair(pairs, "abc", "def") == ((0, 2, 1), (2,))


def test_rolling_windows_predict_every_token_once():
    text = "abcdefghij"
    pairs = rolling_pairs(BYTES, text, 4)
    assert [bytes(target).decode() for _, target in pairs] == ["abcd", "efgh", "ij"]
    assert pairs[0][0] == (0,)
    # A token of context for whole windows; the last one reaches back.
    assert [bytes(context).decode() for context, _ in pairs[1:]] == ["d", "fgh"]
    assert rolling_pairs(BYTES, "", 4) == []


def test_log_likelihoods_are_those_of_the_definition():
    pairs = [
        encode_pair(BYTES, "What is it?", " water"),
        encode_pair(BYTES, "", "a"),
        ((0, *b"x" * 60), tuple(b"yz")),  # keeps the end of what is too long
        ((0, 5), tuple(range(1, 15))),
    ]
    # A greedy continuation, so that both answers are seen.
    best = []
    for _ in range(3):
        best.append(int(np.argmax(next_log_probabilities((0, 7, *best)))))
    pairs.append(((0, 7), tuple(best)))
    got = make_scorer().loglikelihoods(pairs)
    wanted = [by_definition(*pair) for pair in pairs]
    assert [greedy for _, greedy in got] == [greedy for _, greedy in wanted]
    assert [greedy for _, greedy in got][-1] and not all(greedy for _, greedy in got)
    np.testing.assert_allclose([s for s, _ in got], [s for s, _ in wanted], rtol=1e-5)


class Fixed:
    """A scorer whose log probabilities are given: metrics alone."""

    tokenizer = BYTES

    def __init__(self, answers):
        self._answers = answers

    def loglikelihoods(self, pairs):
        assert len(pairs) == len(self._answers)
        return self._answers

    def rolling(self, texts):
        return self._answers

    def completions(self, contexts, stop, max_tokens, sampling):
        assert stop == ["\n"] and max_tokens == 48 and sampling.temperature == 0
        return self._answers


def test_choices_are_scored_with_and_without_length():
    questions = [
        Choice(("a", "a"), (" xx", " xxxx"), 1, (2, 4)),
        Choice(("a", "a"), (" xx", " xxxx"), 0, (2, 4)),
        Choice(("a", "b"), (" x", " x"), 0, (1, 1)),
    ]
    answers = [(-4.0, False), (-6.0, False)] * 2 + [(-1.0, True), (-1.0, True)]
    found = metrics.score(questions, Fixed(answers))
    # Log probabilities choose the first; a character's choose the second; of equals the first.
    assert found["acc"] == pytest.approx(2 / 3) and found["acc_norm"] == pytest.approx(2 / 3)
    assert found["acc_stderr"] == pytest.approx(math.sqrt(2 / 3 * 1 / 3 / 2))


def test_targets_texts_and_completions_are_scored():
    targets = [Target("a", " b"), Target("a", " c")]
    found = metrics.score(targets, Fixed([(-1.0, True), (-3.0, False)]))
    assert found["acc"] == 0.5 and found["perplexity"] == pytest.approx(math.exp(2))
    assert found["perplexity_stderr"] == pytest.approx(math.exp(2))  # deviation sqrt(2), n = 2
    found = metrics.score([Page("a", 2, 10), Page("b", 3, 10)], Fixed([-4.0, -6.0]))
    assert found["word_perplexity"] == pytest.approx(math.exp(2))
    assert found["bits_per_byte"] == pytest.approx(0.5 / math.log(2))
    asked = [Completion("a", ("Paris",)), Completion("a", ("x.z", "y")), Completion("a", ("x.z",))]
    found = metrics.score(asked, Fixed([" in pArIs, it", "y", "xyz"]))
    assert found["contains"] == pytest.approx(2 / 3)


def test_an_interrupted_evaluation_goes_on(tmp_path, monkeypatch):
    path = tmp_path / "requests.jsonl"
    pairs = [encode_pair(BYTES, "one", text) for text in (" a", " b", " c")]
    wanted = make_scorer(path).loglikelihoods(pairs)
    lines = path.read_text().splitlines(keepends=True)
    assert len(lines) == 3
    path.write_text(lines[0] + lines[1] + lines[2][:20])  # the last was being written
    again = make_scorer(path)
    asked = []
    score = again._score
    monkeypatch.setattr(again, "_score", lambda pairs: asked.extend(pairs) or score(pairs))
    assert again.loglikelihoods(pairs * 2) == wanted * 2
    assert len(asked) == 1
    assert len(path.read_text().splitlines()) == 3
    assert Results(path, "model").key([1]) != Results(path, "another model").key([1])


def test_completions_are_the_models_and_are_kept(tmp_path):
    scorer = make_scorer(tmp_path / "requests.jsonl")
    contexts = ["one", "two and three"]
    texts = scorer.completions(contexts, [], 5, metrics.GREEDY)
    prompts = [document(BYTES, text) for text in contexts]
    options = {"key": jax.random.key(0), "sampling": metrics.GREEDY}
    assert texts == complete(model(), BYTES, prompts, 5, **options) and len(set(texts)) == 2
    assert (
        make_scorer(tmp_path / "requests.jsonl").completions(contexts, [], 5, metrics.GREEDY)
        == texts
    )
    with pytest.raises(ValueError, match="^max_length: wanted more than the 48 tokens"):
        scorer.completions(contexts, [], 48, metrics.GREEDY)


# Published fields, and those of the copies; each with the question it must give.
DOCUMENTS = {
    "lambada": ({"text": "one  two three"}, Target("one  two", " three")),
    "piqa": (
        {"goal": "Open it", "sol1": "pull", "sol2": "push it", "label": 1},
        Choice(("Question: Open it\nAnswer:",) * 2, (" pull", " push it"), 1, (4, 7)),
    ),
    "hellaswag": (
        {
            "activity_label": "Cooking",
            "ctx_a": "A man [title] cooks.",
            "ctx_b": "he",
            "endings": ["eats [step] it.", "sleeps."],
            "label": "0",
        },
        Choice(("Cooking: A man. cooks. He",) * 2, (" eats it.", " sleeps."), 0, (8, 7)),
    ),
    "winogrande": (
        {"sentence": "Ann saw Bea so _ waved. ", "option1": "Ann", "option2": "Bea", "answer": "2"},
        Choice(("Ann saw Bea so Ann", "Ann saw Bea so Bea"), (" waved.",) * 2, 1, None),
    ),
    "arc_easy": (
        {"question": "Q", "choices": {"text": ["x", "yy"], "label": ["1", "2"]}, "answerKey": "2"},
        Choice(("Question: Q\nAnswer:",) * 2, (" x", " yy"), 1, (1, 2)),
    ),
    "boolq": (
        {"passage": "P.", "question": "is it", "answer": True},
        Choice(("P.\nQuestion: is it?\nAnswer:",) * 2, (" no", " yes"), 1, None),
    ),
    "openbookqa": (
        {"question_stem": "S", "choices": {"text": ["x", "y"], "label": "AB"}, "answerKey": "B"},
        Choice(("S", "S"), (" x", " y"), 1, (1, 1)),
    ),
    "copa": (
        {"query": "It rained, therefore", "choices": ["a", "b"], "gold": 1},
        Choice(("It rained, therefore",) * 2, (" a", " b"), 1, None),
    ),
    "fda": ({"text": " Name: ", "value": " X "}, Completion("Name:", ("X",))),
}
COPIES = {
    "hellaswag": ({"query": "C", "endings": ["x"], "label": 0}, Choice(("C",), (" x",), 0, (1,))),
    "winogrande": (
        {"context_options": ["a", "b"], "continuation": "c", "gold": 0},
        Choice(("a", "b"), (" c", " c"), 0, None),
    ),
    "arc_easy": (
        ARC[1],
        Choice(("Question: Two and two?\nAnswer:",) * 2, (" five", " four"), 1, (4, 4)),
    ),
    "boolq": (
        {"query": "Passage: P.\nQuestion: is it?", "choices": ["no", "yes"], "gold": 0},
        Choice(("P.\nQuestion: is it?\nAnswer:",) * 2, (" no", " yes"), 0, None),
    ),
    "openbookqa": (
        {"query": "S", "choices": ["x", "y"], "gold": 1},
        Choice(("S", "S"), (" x", " y"), 1, (1, 1)),
    ),
}


@pytest.mark.parametrize(
    ("name", "doc", "wanted"),
    [(name, *pair) for table in (DOCUMENTS, COPIES) for name, pair in table.items()],
)
def test_documents_become_questions(tmp_path, name, doc, wanted):
    write(tmp_path, name, [doc, doc])
    assert read_questions(name, tmp_path) == [wanted, wanted]
    assert read_questions(name, tmp_path, 1) == [wanted]


def test_files_of_other_forms_are_read(tmp_path):
    (tmp_path / "piqa_valid.jsonl").write_text('{"goal": "g", "sol1": "a", "sol2": "b"}\n')
    with pytest.raises(ValueError, match="^data: wanted labels in"):
        read_questions("piqa", tmp_path)
    (tmp_path / "piqa_valid-labels.lst").write_text("1\n")
    (choice,) = read_questions("piqa", tmp_path)
    assert choice.gold == 1
    question = {"question": "Q?", "answers": ["A", "B"]}
    squad = {"data": [{"paragraphs": [{"context": "P.", "qas": [question]}]}]}
    (tmp_path / "squad_v1.1_dev.json").write_text(json.dumps(squad))
    assert read_questions("squad_dev_containment", tmp_path) == [
        Completion("P.\nQuestion: Q?\nAnswer:", ("A", "B"))
    ]
    question["answers"] = [{"text": answer, "answer_start": 0} for answer in question["answers"]]
    (tmp_path / "as_published").mkdir()
    (tmp_path / "as_published" / "squad_v1.1_dev.json").write_text(json.dumps(squad))
    published = read_questions("squad_dev_containment", tmp_path / "as_published")
    assert published == read_questions("squad_dev_containment", tmp_path)
    raw = "\n = One = \n \n A word , 1 @,@ 000 . \n \n = = Part = = \n \n = Two = \n \n It 's . \n"
    (tmp_path / "wiki.test.raw").write_text(raw)
    one, two = read_questions("wikitext", tmp_path)
    assert (one.text, two.text) == (
        " = One =\n\nA word, 1,000.\n\n== Part ==\n",
        " = Two =\n\nIt's.\n",
    )
    assert (two.words, two.bytes) == (8, len(" = Two = \n \n It 's . \n"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("chess", "", "^tasks: wanted some of"),
        ("copa", None, "^data: wanted copa "),
        ("copa", "", "^data: .*: wanted at least one document, got none"),
        ("copa", '{"query": "a"}\n', "^data: .*: document 1 is none of copa"),
        ("copa", "{\n", "^data: .*copa.jsonl:1: wanted JSON"),
        (
            "copa",
            '{"query": "a", "choices": ["b", "c"], "gold": -1}\n',
            "^data: .*: document 1 is none of copa: gold: wanted one of 2, got -1",
        ),
        (
            "winogrande",
            '{"sentence": "a _ b", "option1": "c", "option2": "d", "answer": "3"}\n',
            "^data: .*: document 1 is none of winogrande: gold: wanted one of 2, got 2",
        ),
    ],
)
def test_files_are_refused(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / f"{name}.jsonl").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_questions(name, tmp_path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"tasks": None, "harness": True}, "harness: wanted --tasks with it, got none"),
        ({"tasks": None, "data": "folder"}, "data: wanted --tasks with it, got none"),
        ({"tasks": None, "limit": 3}, "limit: wanted --tasks with it, got none"),
        ({"harness": True, "data": "folder"}, "data: wanted none with --harness, got 'folder'"),
        ({"include_path": "more"}, "include_path: wanted --harness with it, got 'more'"),
    ],
)
def test_flags_that_come_to_nothing_are_refused(values, message):
    """The run's own figures, or other files', would be taken for what was asked."""
    options = dataclasses.asdict(TaskOptions(("piqa",)))
    assert TaskOptions.from_flags(types.SimpleNamespace(**options)) == TaskOptions(("piqa",))
    assert TaskOptions.from_flags(types.SimpleNamespace(**options | {"tasks": None})) is None
    with pytest.raises(ValueError, match=f"^{message}"):
        TaskOptions.from_flags(types.SimpleNamespace(**options | values))


def test_a_missing_harness_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.delitem(sys.modules, "experiments.evaluation.harness", raising=False)
    with pytest.raises(ImportError, match="^harness: wanted the package lm_eval: pip install -r"):
        importlib.import_module("experiments.evaluation.harness")


YAML = """task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {path}
test_split: test
output_type: {kind}
doc_to_text: "{text}"
doc_to_target: "{target}"
{more}metric_list:
{metrics}"""


def yaml(name, path, kind, text, target, more, names):
    metrics = "".join(f"  - metric: {n}\n" for n in names)
    parts = {"name": name, "path": path, "kind": kind, "text": text, "target": target}
    return YAML.format(**parts, more=more, metrics=metrics)


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None,
    reason="needs lm_eval: pip install -r requirements-eval.txt",
)
@pytest.mark.filterwarnings("default")  # those of the harness's own packages
def test_the_harness_gives_the_same_figures_on_the_same_files(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from lm_eval.api.instance import Instance
    from lm_eval.tasks.wikitext.preprocess_wikitext import wikitext_detokenizer

    from experiments.evaluation.harness import HarnessModel, run_harness

    write(tmp_path, "arc_easy", ARC)
    write(tmp_path, "lambada", LAMBADA)
    write(tmp_path, "wikitext", [{"page": page} for page in PAGES])
    asked = {name: read_questions(name, tmp_path) for name in ("arc_easy", "lambada")}
    asked["wikitext"] = [Page(p, len(p.split()), len(p.encode())) for p in PAGES]
    ours = {name: metrics.score(questions, make_scorer()) for name, questions in asked.items()}

    question = "Question: {{question}}\\nAnswer:"
    words = ("word_perplexity", "byte_perplexity", "bits_per_byte")
    tasks = {
        "arc_easy": (
            *("multiple_choice", question, "{{gold}}", 'doc_to_choice: "{{choices}}"\n'),
            ("acc", "acc_norm"),
        ),
        "lambada": (
            *("loglikelihood", "{{text.split(' ')[:-1]|join(' ')}}", "{{' '+text.split(' ')[-1]}}"),
            *("", ("perplexity", "acc")),
        ),
        "wikitext": ("loglikelihood_rolling", "", "{{page}}", "", words),
    }
    for name, parts in tasks.items():
        text = yaml(f"local_{name}", tmp_path / f"{name}.jsonl", *parts)
        (tmp_path / f"{name}.yaml").write_text(text)
    scorer = make_scorer()
    theirs = run_harness(scorer, [f"local_{name}" for name in tasks], str(tmp_path), None)
    for name, parts in tasks.items():
        for figure in parts[-1]:
            assert theirs[f"local_{name}"][figure] == ours[name][figure], (name, figure)
            error = f"{figure}_stderr"
            if error in ours[name] and figure != "perplexity":  # theirs is drawn
                assert theirs[f"local_{name}"][error] == pytest.approx(ours[name][error], rel=1e-12)

    arguments = {"until": ["\n", "z"], "max_gen_toks": 12, "do_sample": False}
    requests = [
        Instance("generate_until", {}, (text, arguments), 0) for text in ("one", "two three")
    ]
    wanted = make_scorer().completions(["one", "two three"], ["\n", "z"], 12, metrics.GREEDY)
    assert HarnessModel(scorer).generate_until(requests) == wanted
    page = ' = A = \n It \'s ( so ) " far " , 1 @,@ 000 @-@ year . \n'
    assert detokenize(page) == wikitext_detokenizer({"page": page})
    with pytest.raises(ValueError, match="^tasks: wanted tasks of lm-evaluation-harness"):
        run_harness(scorer, ["no such task"], None, None)
