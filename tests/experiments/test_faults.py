# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The runner of faults, a short form: hostile files are refused, and a loss would be counted."""

import gzip
import json
import lzma

import numpy as np
import pytest

from deltanet_jax.train import manifest
from deltanet_jax.train.metrics import read_metrics
from experiments.evaluation.scoring import Results
from experiments.faults import arguments, configs, damage, fuzz, hostile, runs
from experiments.faults.outcome import Outcome
from experiments.tasks.language_modeling.data import read_documents
from experiments.text import documents, shards
from experiments.text.lines import read_json_lines


def test_hostile_files_are_refused_with_a_message(tmp_path):
    outcome = hostile.hostile_files(tmp_path, 0, 250)
    assert (outcome.caused, outcome.problems) == (250, [])


def test_a_reader_that_lets_other_errors_through_is_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(hostile, "keep_rows", lambda path, keep: {}[path])
    outcome = hostile.hostile_files(tmp_path, 0, 100)
    assert outcome.lost == 1 and "metrics.jsonl: KeyError" in outcome.problems[0]


def test_bad_arguments_are_refused_with_a_message_and_other_errors_counted(
    no_jaxtyping, monkeypatch
):
    outcome = arguments.hostile_arguments(0, 70)
    assert (outcome.caused, outcome.problems) == (70, [])
    assert outcome.figures["taken_as_good_arguments"] < 20
    monkeypatch.setattr(fuzz, "REFUSALS", TypeError)
    outcome = arguments.hostile_arguments(0, 14)
    assert outcome.lost > 2 and all("ValueError" in p for p in outcome.problems)


def test_impossible_configs_are_refused_and_others_stay_the_same(monkeypatch):
    outcome = configs.hostile_configs(0, 200)
    assert (outcome.caused, outcome.problems) == (200, [])
    assert 10 < outcome.figures["taken_as_good_configs"] < 190
    read = configs.RunConfig.from_json

    def forgetful(text):
        config = read(text)
        return config.replace(train=config.train.replace(seed=config.train.seed + 1))

    def wordless(values):
        raise ValueError("num_layers: not as wanted" if "d_model" in values else "no")

    monkeypatch.setattr(configs.RunConfig, "from_json", forgetful)
    monkeypatch.setattr(configs, "run_config_from_flags", wordless)
    outcome = configs.hostile_configs(0, 20)
    assert [p.split(":")[:2] for p in outcome.problems] == [
        ["config.json", " AssertionError"],
        ["flags", " AssertionError"],
    ]


def test_what_fails_is_told_of_at_its_smallest():
    """Cases of a hundred and more, in one of two ways."""
    outcome = fuzz.Outcome("")

    def act(case):
        if case >= 100:
            raise KeyError(case) if case % 2 else IndexError(case)

    fuzz.try_cases(outcome, "name", fuzz.st.integers(), 200, 0, act)
    assert [p[:20] for p in sorted(outcome.problems)] == [
        "name: IndexError: 10",
        "name: KeyError: 101:",
    ]
    assert ["case=100" in min(outcome.problems), "case=101" in max(outcome.problems)] == [True] * 2
    assert outcome.lost == 2 and outcome.caused > 2


def test_a_case_that_is_slow_or_refused_without_a_word_is_lost(monkeypatch):
    def refuse(case):
        raise ValueError(case)

    for act, words in ((refuse, "an error without a message"), (str, "took")):
        outcome = fuzz.Outcome("")
        monkeypatch.setattr(fuzz, "SECONDS", 2.0 if act is refuse else -1.0)
        fuzz.try_cases(outcome, "name", fuzz.st.just(""), 5, 0, act)
        assert outcome.lost == 1 and words in outcome.problems[0]


@pytest.mark.parametrize("broken", [False, True])
def test_flipped_bits_are_found_and_would_be_missed_without_hashes(tmp_path, monkeypatch, broken):
    if broken:
        monkeypatch.setattr(manifest, "_piece", lambda path, start, size: b"")
    outcome = damage.flip_bits(tmp_path, np.random.default_rng(0), 20)
    assert outcome.caused == 20
    assert outcome.lost > 10 if broken else outcome.lost == 0


def test_damaged_shards_are_found_and_would_be_missed_without_their_digests(tmp_path, monkeypatch):
    outcome = damage.flip_shards(tmp_path, np.random.default_rng(0), 40)
    assert (outcome.caused, outcome.problems) == (40, [])
    monkeypatch.setattr(shards.Ids, "_check", lambda ids, number: ids._unchecked.clear())
    (tmp_path / "again").mkdir()
    assert damage.flip_shards(tmp_path / "again", np.random.default_rng(0), 40).lost > 20


def test_a_secret_in_an_output_is_counted(tmp_path):
    (tmp_path / "clean.txt").write_text("canary")
    assert runs.find_secrets(tmp_path, Outcome("")).lost == 0
    (tmp_path / "trace.bin").write_bytes(b"\0\xff" + runs.SECRET.encode())
    assert "trace.bin" in runs.find_secrets(tmp_path, Outcome("")).problems[0]


@pytest.mark.parametrize("name", ["text.jsonl.gz", "text.txt.xz", "text.jsonl"])
@pytest.mark.parametrize("boundary", documents.BOUNDARIES)
def test_what_unpacks_to_more_than_can_be_meant_is_refused(tmp_path, monkeypatch, name, boundary):
    """And nothing of it beyond the limit is read; plain text may be of any size."""
    monkeypatch.setattr(documents, "MAX_UNPACKED_BYTES", 1000)
    monkeypatch.setattr(documents, "MAX_LINE_BYTES", 2000)
    path = tmp_path / name
    packed = {".gz": gzip.compress, ".xz": lzma.compress}.get(path.suffix, bytes)
    path.write_bytes(packed(b'{"text": "' + b"x" * 10**6 + b'"}'))
    with pytest.raises(ValueError, match=f"data: .*{name}.*: wanted (lines|documents) of at most"):
        list(documents.read_documents(path, boundary))
    path.write_bytes(packed(b'{"text": "one"}'))
    assert len(list(documents.read_documents(path, boundary))) == 1


@pytest.mark.parametrize("ending", ["gz", "xz"])
def test_a_cut_archive_is_refused_with_its_name(tmp_path, ending):
    packed = {"gz": gzip.compress, "xz": lzma.compress}[ending](b'{"text": "one"}\n' * 99)
    path = tmp_path / f"text.jsonl.{ending}"
    for content in (packed[:-9], packed[:4], b"plain text"):
        path.write_bytes(content)
        for read in (read_documents, lambda path: read_json_lines(path, "data")):
            with pytest.raises(ValueError, match=f"text.jsonl.{ending}: wanted a whole compressed"):
                list(read(path))


@pytest.mark.parametrize("line", ["{", "3", "{}", '{"step": "x"}'])
def test_rows_of_metrics_end_at_damage_which_is_said_unless_it_is_the_last(tmp_path, caplog, line):
    path = tmp_path / "metrics.jsonl"
    rows = [json.dumps({"step": n}) for n in (1, 2)]
    path.write_text("\n".join([rows[0], line]))
    assert read_metrics(path) == [{"step": 1}] and not caplog.text
    path.write_text("\n".join([rows[0], line, rows[1]]))
    assert read_metrics(path) == [{"step": 1}]
    assert f"{path}: line 2 is damaged" in caplog.text


@pytest.mark.parametrize("line", ["{", "3", '{"key": 1, "result": []}', '{"key": "a"}'])
def test_answers_that_were_kept_and_damaged_are_named(tmp_path, line):
    path = tmp_path / "requests.jsonl"
    good = json.dumps({"key": "a", "result": [1]}) + "\n"
    path.write_text(good + line + "\n")
    with pytest.raises(ValueError, match=r"workdir: .*requests.jsonl:2: wanted an answer"):
        Results(path, "")
    path.write_text(good + line)  # its writing was interrupted
    assert Results(path, "")["a"] == [1]
    assert path.read_text() == good
