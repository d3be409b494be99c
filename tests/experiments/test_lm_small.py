# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The small main table: figures against whole logits, the driver, the report."""

import dataclasses
import json
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deltanet_jax.train.stop import Interrupted, Stop
from experiments.evaluation.run import TaskOptions, evaluate_tasks
from experiments.lm_small import (
    Deadline,
    HeldOut,
    configs,
    held_out_from_flags,
    run_models,
    tasks_from_flags,
)
from experiments.lm_small_eval import evaluate_lm, wikitext_from_flags
from experiments.lm_small_report import RESULTS, lm_small_section, save_lm_small_pictures
from experiments.restored import restore_model
from experiments.text.prepare import prepare
from experiments.text.sources import find_sources
from experiments.text.tokenizers import load_tokenizer

MODEL = "transformer_pp"  # compiles fastest
BATCH_TOKENS = 256  # of requests; rows that nothing was asked of are computed too
WIKITEXT = " \n = A = \n \n Alpha , beta . \n " + "gamma " * 12 + "\n = B = \n delta \n"


def run(folder, models=(MODEL,), *, deadline=None, stop=None, reduced=True):
    stop = stop or Stop()
    runs = configs(list(models), str(folder / "data"), reduced)
    pages, tokenizer = wikitext_from_flags(str(folder / "wiki.test.raw"), "bytes")
    tasks = dataclasses.replace(tasks_from_flags(flag_values(folder)), batch_tokens=BATCH_TOKENS)
    held_out = HeldOut(pages, tokenizer, tasks)
    places = folder / "runs", folder / "out"
    return run_models(runs, *places, held_out, deadline or Deadline(0, stop), stop)


def flag_values(folder, **changed):
    """The flags that say what is asked after training."""
    values = {"tasks": ["lambada"], "task_data": str(folder), "tokenizer": "bytes"}
    return types.SimpleNamespace(**values | {"reduced": False} | changed)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A model trained for a few steps on bytes, and its folder."""
    folder = tmp_path_factory.mktemp("lm_small")
    rng = np.random.default_rng(0)
    files = {}
    for split, count in (("train", 3000), ("valid", 700), ("test", 300)):
        files[split] = [str(folder / f"{split}.txt")]
        (folder / f"{split}.txt").write_text("".join(rng.choice(list("abcd "), count)))
    prepare(find_sources(**files), "bytes", "file", folder / "data", workers=1)
    (folder / "wiki.test.raw").write_text(WIKITEXT)
    (folder / "lambada_test.jsonl").write_text('{"text": "a b ab"}\n{"text": "c d cd"}\n' * 2)
    stop = Stop()
    stop.ask()
    assert run(folder, stop=stop) == {MODEL: "not started"}
    assert run(folder) == {MODEL: "done"}
    return folder


def record_of(folder):
    return json.loads((folder / "out" / MODEL / "record.json").read_text())


def naive_losses(model, rows):
    """Nats of every id after a row's first, from whole logits in float64; rows of any length."""
    longest = max(map(len, rows)) - 1
    inputs = np.stack([np.pad(row[:-1], (0, longest + 1 - len(row))) for row in rows])
    logits = np.asarray(jax.jit(model.__call__)(jnp.asarray(inputs))[0], np.float64)
    log_z = np.log(np.exp(logits).sum(-1))
    return [z[np.arange(len(r) - 1)] - x[np.arange(len(r) - 1), r[1:]]
            for x, z, r in zip(logits, log_z, rows, strict=True)]  # fmt: skip


def test_figures_are_those_of_whole_logits(done):
    _, _, model = restore_model(done / "runs" / MODEL)
    valid, test = (
        np.frombuffer(b"\0" + (done / f"{split}.txt").read_bytes(), np.uint8).astype(np.int32)
        for split in ("valid", "test")
    )
    # Eight of 21 windows of 32; three rows of 8 x 32; windows of two pages, as (row, predictions).
    windows = [valid[s : s + 33] for s in range(0, 21 * 32, 2 * 32)][:8]
    long = [valid[:257], valid[256:513], test[:257]]
    pieces = []
    for text in (" = A =\n\nAlpha, beta.\n" + "gamma " * 12, " = B =\ndelta\n"):
        ids = np.array([0, *text.encode()], np.int32)
        for start in range(0, len(ids) - 1, 32):
            stop = min(start + 32, len(ids) - 1)
            first = start if start == 0 or stop - start == 32 else max(1, stop - 32)
            pieces.append((ids[first : stop + 1], stop - start))
    losses = naive_losses(model, [*windows, *long, *(row for row, _ in pieces)])
    record = record_of(done)

    wanted = np.concatenate(losses[:8])
    assert record["validation"]["loss"] == pytest.approx(wanted.mean(), rel=1e-5)
    assert record["validation"]["tokens"] == wanted.size

    found = record["positions"]
    wanted = np.stack(losses[8:11]).reshape(3, 32, 8).mean(axis=(0, 2))
    np.testing.assert_allclose(found["loss"], wanted, rtol=1e-5)
    assert (found["rows"], found["seq_len"], found["bucket"]) == (3, 256, 8)

    total = sum(x[-n:].sum() for x, (_, n) in zip(losses[11:], pieces, strict=True))
    words = len("= A = Alpha , beta .".split()) + 12 + 2 + len("= B = delta".split()) + 2
    size = len(WIKITEXT) - len(" \n") - len("\n")  # before the first page, between the two
    figures = record["wikitext"]
    assert (figures["words"], figures["pages"], figures["bytes"]) == (words, 2, size)
    assert figures["tokens"] == sum(n for _, n in pieces)
    assert figures["word_perplexity"] == pytest.approx(math.exp(total / words), rel=1e-4)
    assert figures["bits_per_byte"] == pytest.approx(total / size / math.log(2), rel=1e-5)


def test_tasks_are_those_of_evaluate(done):
    kept = json.loads((done / "out" / MODEL / "offline.json").read_text())
    options = TaskOptions(("lambada",), "bytes", str(done), batch_tokens=BATCH_TOKENS)
    again = evaluate_tasks(done / "runs" / MODEL, options)
    assert kept["tasks"] == again["tasks"]
    assert kept["tasks"]["lambada"]["documents"] == 4
    assert kept["step"] == 4


def test_tasks_alone_need_no_wikitext(done):
    """Both want the tokenizer, and each may be asked for without the other."""
    found = held_out_from_flags(flag_values(done, wikitext=None))
    assert (found.pages, found.tokenizer) == (None, None)
    assert found.tasks.tasks == ("lambada",)
    both = flag_values(done, wikitext=str(done / "wiki.test.raw"), reduced=True)
    assert len(held_out_from_flags(both).pages) == 1
    with pytest.raises(ValueError, match="wikitext: wanted --wikitext and --tokenizer together"):
        held_out_from_flags(flag_values(done, wikitext=None, tasks=[], task_data=None))
    with pytest.raises(ValueError, match="^task_data: wanted --tasks with it, got none"):
        tasks_from_flags(flag_values(done, tasks=[]))


def test_what_is_kept_is_small_and_not_made_again(done):
    folder = done / "out" / MODEL
    names = {path.name for path in folder.iterdir()}
    kept = {"config.json", "machine.json", "metrics.jsonl", "offline.json", "record.json"}
    assert names == kept
    record = record_of(done)
    assert record["tokens"] == 4 * 8 * 32 and record["steps"] == 4
    assert record["parameters"] - record["non_embedding_parameters"] == 256 * 32
    before = (folder / "record.json").stat().st_mtime_ns
    assert run(done) == {MODEL: "done"}
    assert (folder / "record.json").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match=f"out: .*{MODEL} is of another config"):
        run(done, reduced=False)


def test_a_run_of_another_config_leaves_nothing_in_out(done, tmp_path):
    other = tmp_path / "runs" / MODEL
    other.mkdir(parents=True)
    (config,) = configs([MODEL], str(done / "data"), True, seed=1).values()
    (other / "config.json").write_text(config.to_json())
    (mine,) = configs([MODEL], str(done / "data"), True).values()
    with pytest.raises(ValueError, match=f"^workdir: .*{MODEL} is of another config"):
        stop = Stop()
        places = tmp_path / "runs", tmp_path / "out"
        run_models({MODEL: mine}, *places, HeldOut(), Deadline(0, stop), stop)
    assert not (tmp_path / "out").exists()


def test_models_that_do_not_fit_are_not_started(done):
    stop = Stop()
    deadline = Deadline(1.0, stop)
    assert deadline.fits()
    deadline._longest = 61.0
    assert not deadline.fits()
    outcome = run(done, (MODEL, "retnet"), deadline=deadline)
    assert outcome == {MODEL: "done", "retnet": "not started"}
    with Deadline(1e-4, stop):
        assert stop._asked.wait(timeout=10)


def test_an_interrupted_model_keeps_its_log(done, monkeypatch):
    def interrupted(model, config, task, workdir, **options):
        workdir.mkdir(parents=True)
        (workdir / "metrics.jsonl").write_text("{}\n")
        raise Interrupted(2)

    monkeypatch.setattr("experiments.lm_small.train", interrupted)
    with pytest.raises(Interrupted):
        run(done, ("gla",))
    assert (done / "out" / "gla" / "metrics.jsonl").read_text() == "{}\n"
    assert not (done / "out" / "gla" / "record.json").exists()


def test_a_model_trained_when_time_is_up_is_evaluated_by_the_next_command(done, monkeypatch):
    stop = Stop()
    monkeypatch.setattr("experiments.lm_small.train", lambda *args, **options: stop.ask())
    with pytest.raises(Interrupted, match="step 4 is saved"):
        run(done, ("delta_net",), stop=stop)


def test_bad_names_and_runs_are_refused(done):
    for models, message in ((["morse"], "wanted names of"), (["gla", "gla"], "wanted different")):
        with pytest.raises(ValueError, match=f"models: {message}"):
            configs(models, str(done / "data"), True)
    with pytest.raises(ValueError, match="wikitext: wanted --wikitext and --tokenizer together"):
        wikitext_from_flags("wiki.test.raw", None)
    for name in ("task_data", "tokenizer"):
        with pytest.raises(ValueError, match=f"{name}: wanted .* with --tasks, got none"):
            tasks_from_flags(flag_values(done, **{name: None}))
    with pytest.raises(ValueError, match="tasks: wanted"):
        tasks_from_flags(flag_values(done, tasks=["morse"]))
    with pytest.raises(ValueError, match="^task_data: wanted"):
        tasks_from_flags(flag_values(done / "out"))
    _, config, _ = restore_model(done / "runs" / MODEL)
    other = load_tokenizer("bytes")
    other.digest = "0123"
    with pytest.raises(ValueError, match="tokenizer: wanted the data's, SHA-256 .* got 0123"):
        evaluate_lm(config, None, {}, [], other)
    zipf = config.replace(task=config.task.replace(data=()))
    with pytest.raises(ValueError, match="workdir: wanted a run on a prepared folder"):
        evaluate_lm(zipf, None, {}, None, None)


def test_the_report_is_the_records(done, tmp_path):
    assert lm_small_section(tmp_path) == ""
    save_lm_small_pictures(tmp_path)
    assert not list(tmp_path.iterdir())
    machine = {"device": "GPU", "jax": "1", "commit": "0123456789abc", "command": "python x"}
    models = (("gla", 30.0, 2), ("delta_net", 25.5, 1), ("l1-relu", 40.0, 1))
    for name, perplexity, devices in models:
        folder = tmp_path / name
        folder.mkdir()
        figures = record_of(done) | {"tokens_per_second": 4.56e5}
        figures["machine"] = machine | {"date": "2026-01-02T", "device_count": devices}
        figures["parameters"] = 109_960_000
        figures["validation"]["perplexity"] = perplexity
        figures["wikitext"]["word_perplexity"] = 2 * perplexity
        (folder / "record.json").write_text(json.dumps(figures))
        for file in ("metrics.jsonl", "config.json"):
            (folder / file).write_text((done / "out" / MODEL / file).read_text())
    tasks = {"lambada": {"perplexity": 123.4, "acc": 0.25}}
    (tmp_path / "gla" / "offline.json").write_text(json.dumps({"tasks": tasks}))
    other = {"tasks": {"piqa": {"acc": 0.5}}}  # --tasks=piqa: no LAMBADA to show
    (tmp_path / "delta_net" / "offline.json").write_text(json.dumps(other))
    text = lm_small_section(tmp_path, tmp_path / "none")
    link = "[record](experiments/results/lm_small/gla/record.json)"
    figures = "110.0 | 0 | 30.00 | 60.00 | 28.65 | 123.4, 25.0 | 456,000 (2 GPUs)"
    assert f"| GLA (no conv) | {figures} | {link} |" in text
    assert "| 25.50 | 51.00 | 28.24 | –, – | 456,000 |" in text
    assert text.index("GLA") < text.index("DeltaNet (conv)") < text.index("L1 norm, ReLU")
    assert "GPU, jax 1, commit 0123456789, 2026-01-02; made by `python x`." in text
    assert "Not run with this recipe yet: Transformer++, RetNet" in text
    assert "By recipe" not in text
    save_lm_small_pictures(tmp_path)
    assert (tmp_path / "loss.png").stat().st_size > 10_000
    assert (tmp_path / "positions.png").stat().st_size > 10_000


def test_the_report_has_means_over_seeds_and_what_other_recipes_gave(done, tmp_path):
    def record(folder, perplexity, **recipe):
        folder.mkdir(parents=True)
        figures = record_of(done)
        figures["validation"]["perplexity"] = perplexity
        (folder / "record.json").write_text(json.dumps(figures))
        config = json.loads((done / "out" / MODEL / "config.json").read_text())
        config["train"]["optimizer"] |= recipe
        losses = [(i, math.log(perplexity + 8 - i)) for i in range(1, 9)]
        rows = [json.dumps({"step": i, "eval/loss": loss}) for i, loss in losses]
        (folder / "metrics.jsonl").write_text("\n".join(rows) + "\n")
        (folder / "config.json").write_text(json.dumps(config))

    results, tried = tmp_path / "results", tmp_path / "tried"
    record(results / "gla", 30.0)
    record(results / "gla-seed-1", 33.0)
    record(results / "gla-seed-2", 31.5)
    record(results / "delta_net", 29.0)
    record(tried / "lm_small-other" / "gla", 40.0, weight_decay=0.25)
    text = lm_small_section(results, tried)
    assert "| 31.50 (30.00 to 33.00, 3 seeds) | " in text and " | 29.00 | " in text
    assert "weight decay 0.25 |\n" in text
    assert "| GLA (no conv) | 31.50 (30.00 to 33.00, 3 seeds) | 40.00 |\n" in text
    assert "| DeltaNet (conv) | 29.00 | – |\n" in text
    assert "| DeltaNet (conv) | 35.00 | 33.00 | 31.00 | 29.00 |\n" in text


def test_another_seed_has_a_folder_of_its_own(done):
    data = str(done / "data")
    (name, config), (seeded, other) = (
        next(iter(configs([MODEL], data, True, seed).items())) for seed in (0, 3)
    )
    assert (name, seeded) == (MODEL, f"{MODEL}-seed-3")
    assert other != config and other.replace(train=config.train, task=config.task) == config
    assert (other.train.seed, other.task.data_seed) == (3, 3)


def test_the_papers_numbers_are_of_models_that_there_are():
    names = json.loads((RESULTS / "paper.json").read_text())["wikitext"]
    runs = configs([name for name in names if name != "mamba"], "nowhere", False)
    assert len(runs) == 11
