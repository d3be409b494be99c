# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""README's numbers are the records'."""

from experiments.report import ROOT, fill_in


def test_readme_is_what_the_records_say():
    text = (ROOT / "README.md").read_text()
    assert fill_in(text) == text
