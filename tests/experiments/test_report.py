# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The documents' numbers are the records'."""

import pytest

from deltanet_jax.mixers.registry import MIXERS
from experiments.mixers_report import mixers_section
from experiments.report import ROOT, SECTIONS, fill_in


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
