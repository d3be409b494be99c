# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The documents' numbers are the records'."""

import json

import pytest

from deltanet_jax.mixers.registry import MIXERS
from experiments import report
from experiments.mixers_report import mixers_section
from experiments.report import RESULTS, ROOT, SECTIONS, fill_in


@pytest.mark.parametrize("document", SECTIONS)
def test_a_document_is_what_the_records_say(document):
    text = (ROOT / document).read_text()
    assert fill_in(document, text) == text


def test_every_mixer_has_a_line():
    lines = dict(
        line.split(" | ", 1) for line in mixers_section().splitlines()[2:] if line[:1] == "|"
    )
    assert set(lines) == {f"| `{kind}`" for kind in MIXERS}
    # 8 heads of 128 x 128, three tails of 3 tokens; 4 maps, the betas, convolutions; 24 H K V.
    operations = 6 * (4 * 1024**2 + 8 * 1024 + 3 * 4 * 1024) + 24 * 8 * 128**2
    assert f"| {8 * 128**2 + 9 * 1024:,} | {operations / 1e6:.1f} |" in lines["| `delta_net`"]


def test_each_fault_stands_as_of_the_last_time_it_was_caused(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    machine = json.loads((RESULTS / "faults" / "record.json").read_text())["machine"]
    for folder, hour, caused in (("all", 1, {"a": 10, "b": 20}), ("some", 2, {"b": 30, "c": 0})):
        faults = [
            {"name": name, "caused": n, "lost": 1, "figures": {}} for name, n in caused.items()
        ]
        record = {"machine": machine | {"date": f"2026-01-01T0{hour}"}, "faults": faults}
        path = tmp_path / "faults" / folder / "record.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(record))
    lines = [line for line in report.faults_section().splitlines() if line[:3] in ("| a", "| b")]
    assert lines == ["| b | 30 | 29 | 1 |", "| a | 10 | 9 | 1 |"]
