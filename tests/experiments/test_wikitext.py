# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""WikiText by the harness's rule: ordinary text, words of the original, windows."""

import pytest

from experiments.text.wikitext import detokenize, read_pages, rolling_windows


@pytest.mark.parametrize(
    ("page", "text"),
    [
        (" = A = \n \n B , C . \n = = D = = \n", " = A =\n\nB, C.\n== D ==\n"),
        ("a 1 @,@ 000 @-@ foot , 2 @.@ 5 m", "a 1,000-foot, 2.5 m"),
        ('he said " yes " ( or [ no ] ) ; why ? x', 'he said "yes" (or [no]); why? x'),
        ("Boulter 's role , the Smiths ' house", "Boulter's role, the Smiths' house"),
        ("5 ° C", "5°C"),
    ],
)
def test_ordinary_text(page, text):
    assert detokenize(page) == text


def test_pages_count_the_words_they_had(tmp_path):
    path = tmp_path / "wiki.test.raw"
    path.write_text(" \n = A = \n \n B , C \n = B = \n D é \n")
    first, second = read_pages(path)
    # Ends count: the harness splits " = A = \n \n B , C " at every run of white space.
    assert (first.words, first.bytes) == (len(["", "=", "A", "=", "B", ",", "C", ""]), 17)
    assert (second.words, second.bytes) == (len(["", "=", "B", "=", "D", "é", ""]), 15)
    assert second.text == " = B =\nD é\n"
    path.write_bytes(b" = A = \n\xff")
    with pytest.raises(ValueError, match=r"wikitext: .*wiki.test.raw: wanted UTF-8"):
        read_pages(path)
    path.write_text("\n")
    with pytest.raises(ValueError, match=r"wikitext: .*wiki.test.raw: wanted pages, got none"):
        read_pages(path)


@pytest.mark.parametrize("count", [1, 3, 4, 5, 8, 9, 15])
def test_windows_are_the_harnesss(count):
    """Predictions of `length` ids at a time; every input but the first window's has full length."""
    length, start = 4, -1
    ids = list(range(count))
    windows = list(rolling_windows(ids, start, length))
    assert [i for _, targets in windows for i in targets] == ids
    for number, (inputs, targets) in enumerate(windows):
        assert len(targets) == min(length, count - number * length)
        end = targets[-1]
        if number == 0:
            assert inputs == [start, *ids[:end]]
        else:
            assert inputs == ids[max(0, end - length) : end]
