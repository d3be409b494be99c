# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The documents' numbers are the records'."""

import pytest

from experiments.report import ROOT, SECTIONS, fill_in


@pytest.mark.parametrize("document", SECTIONS)
def test_a_document_is_what_the_records_say(document):
    text = (ROOT / document).read_text()
    assert fill_in(document, text) == text
