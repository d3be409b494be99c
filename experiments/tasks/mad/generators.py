# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The six generators of MAD, vectorised: each makes n examples at once.

Poli et al. 2024, "Mechanistic Design and Scaling of Hybrid Architectures" (arXiv:2403.17844).
Every generator takes a random generator, the task's config, the number of examples and whether they
are for training, and returns inputs and targets [n, T] int32 and weights [n, T] float32. T is
seq_len, or one less where targets are the inputs shifted by one.
"""

import numpy as np

NOISE_IDS = 16
MOTIF_LENGTH = 3
EMPTY = -1


def first_occurrence(codes: np.ndarray) -> np.ndarray:
    """Where in its row each entry stood for the first time: [n, P] integers -> [n, P] columns."""
    order = np.argsort(codes, axis=1, kind="stable")
    ordered = np.take_along_axis(codes, order, axis=1)
    columns = np.broadcast_to(np.arange(codes.shape[1]), codes.shape)
    begins = np.ones(codes.shape, bool)
    begins[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    starts = np.maximum.accumulate(np.where(begins, columns, 0), axis=1)
    first = np.empty_like(order)
    np.put_along_axis(first, order, np.take_along_axis(order, starts, axis=1), axis=1)
    return first


def _one_of(rng: np.random.Generator, allowed: np.ndarray) -> np.ndarray:
    """A column where `allowed` [n, P] is true, uniformly, in every row: [n]."""
    return np.argmax(np.where(allowed, rng.random(allowed.shape), -1.0), axis=1)


def _examples(inputs, targets, counted) -> dict[str, np.ndarray]:
    return {
        "inputs": np.ascontiguousarray(inputs, np.int32),
        "targets": np.where(counted, targets, 0).astype(np.int32),
        "weights": np.ascontiguousarray(counted, np.float32),
    }


def _shifted(sequence: np.ndarray, answers: np.ndarray, training: bool) -> dict[str, np.ndarray]:
    """Next-token targets; all of them count in training, else those that are `answers`."""
    counted = np.ones_like(answers[:, 1:]) if training else answers[:, 1:]
    return _examples(sequence[:, :-1], sequence[:, 1:], counted)


def _recall(rng, config, n: int, training: bool, noise_ids: int, frac_noise: float):
    pairs, half = config.seq_len // 2, (config.vocab_size - noise_ids) // 2
    keys = rng.integers(0, half, (n, pairs))
    noisy = rng.random((n, pairs)) < frac_noise
    noisy[np.arange(n), rng.integers(0, pairs - 1, n)] = False
    noisy[:, -1] = False
    # The last pair repeats one of the keys shown, each as probable as another.
    codes = np.where(noisy, half + np.arange(pairs), keys)
    first = first_occurrence(codes)
    shown = (first == np.arange(pairs)) & ~noisy
    shown[:, -1] = False
    codes[:, -1] = codes[np.arange(n), _one_of(rng, shown)]
    keys[:, -1] = codes[:, -1]
    first = first_occurrence(codes)
    values = np.take_along_axis(half + rng.integers(0, half, (n, pairs)), first, axis=1)

    sequence = np.stack([keys, values], axis=2)
    noise = rng.integers(2 * half, 2 * half + max(noise_ids, 1), sequence.shape)
    sequence = np.where(noisy[:, :, None], noise, sequence)
    answers = np.zeros(sequence.shape, bool)
    answers[:, :, 1] = first < np.arange(pairs)
    return _shifted(sequence.reshape(n, -1), answers.reshape(n, -1), training)


def in_context_recall(rng, config, n: int, training: bool) -> dict[str, np.ndarray]:
    """Key, value, key, value; a key keeps its value. Held out: values of keys seen before count.

    Keys are ids below V / 2, values the others. The last pair repeats a key shown before.
    """
    return _recall(rng, config, n, training, 0, 0.0)


def noisy_in_context_recall(rng, config, n: int, training: bool) -> dict[str, np.ndarray]:
    """The same, with pairs replaced by two noise ids, the uppermost 16, with frac_noise."""
    return _recall(rng, config, n, training, NOISE_IDS, config.frac_noise)


def _tuples(rng, shape: tuple[int, ...], size: int) -> np.ndarray:
    """Ordered tuples of three distinct numbers below `size`: [*shape, 3]."""
    a, b, c = (rng.integers(0, size - i, shape) for i in range(MOTIF_LENGTH))
    b += b >= a
    c += c >= np.minimum(a, b)
    c += c >= np.maximum(a, b)
    return np.stack([a, b, c], axis=-1)


def fuzzy_in_context_recall(rng, config, n: int, training: bool) -> dict[str, np.ndarray]:
    """Recall where a key, and a value, is a tuple of one to three distinct ids.

    The pad is V - 1; keys are of the lower half of the other ids. Held out keys all have three
    ids. A probe pair is put where the sequence reaches a random length (unless its key came by
    itself), and again at the end; padded on the left. In training the pads count too.
    """
    pad = config.vocab_size - 1
    half, longest = pad // 2, 2 * MOTIF_LENGTH
    shape = (n, 1 + config.seq_len // 2)  # the probe, then as many pairs as there could be
    slots = np.arange(MOTIF_LENGTH)
    keys, values = _tuples(rng, shape, half), half + _tuples(rng, shape, pad - half)
    least = 1 if training else MOTIF_LENGTH
    keys[slots >= rng.integers(least, MOTIF_LENGTH + 1, shape)[:, :, None]] = EMPTY
    values[slots >= rng.integers(1, MOTIF_LENGTH + 1, shape)[:, :, None]] = EMPTY
    code = (keys + 1) @ (half + 1) ** slots  # one number a key; EMPTY + 1 is no id's
    values = np.take_along_axis(values, first_occurrence(code)[:, :, None], axis=1)
    pairs = np.concatenate([keys, values], axis=2)
    probe, pairs = pairs[:, :1], pairs[:, 1:]
    probe_code, code = code[:, :1], code[:, 1:]

    def starts():
        lengths = (pairs != EMPTY).sum(axis=2)
        return np.cumsum(lengths, axis=1) - lengths

    room = config.seq_len - (probe != EMPTY).sum(axis=2) - longest
    # A pair starts in any `longest` consecutive places, so the probe is always put somewhere.
    place = rng.integers(0, room - longest + 1)
    column = np.argmax(starts() >= place, axis=1)
    came = ((code == probe_code) & (np.arange(code.shape[1]) < column[:, None])).any(axis=1)
    rows = np.flatnonzero(~came)
    pairs[rows, column[rows]], code[rows, column[rows]] = probe[rows, 0], probe_code[rows, 0]
    pairs[starts() >= room] = EMPTY

    tokens = np.concatenate([pairs, probe], axis=1)
    code = np.concatenate([code, probe_code], axis=1)
    answers = np.zeros(tokens.shape, bool)
    repeated = first_occurrence(code) < np.arange(code.shape[1])
    answers[:, :, MOTIF_LENGTH:] = repeated[:, :, None]
    # To the right end, in order.
    tokens, answers = tokens.reshape(n, -1), answers.reshape(n, -1)
    used = tokens != EMPTY
    length = config.seq_len + 1
    columns = length - used.sum(axis=1, keepdims=True) + np.cumsum(used, axis=1) - 1
    places = np.nonzero(used)[0], columns[used]
    sequence, answered = np.full((n, length), pad), np.zeros((n, length), bool)
    sequence[places], answered[places] = tokens[used], answers[used]
    return _shifted(sequence, answered, training)


def memorization(rng, config, n: int, training: bool) -> dict[str, np.ndarray]:
    """Key, insert, key, insert: at an insert the key's value, by one map for the whole task.

    The insert is V - 1, keys are of the lower half of the other ids, values of the upper half.
    """
    del training
    insert = config.vocab_size - 1
    half = insert // 2
    mapping = half + np.random.default_rng(config.data_seed).permutation(half)
    keys = rng.integers(0, half, (n, config.seq_len // 2))
    inputs = np.stack([keys, np.full_like(keys, insert)], axis=2).reshape(n, -1)
    targets = np.stack([keys, mapping[keys]], axis=2).reshape(n, -1)
    return _examples(inputs, targets, inputs == insert)


def compression(rng, config, n: int, training: bool) -> dict[str, np.ndarray]:
    """Random ids, then the compression id V - 1; all are to be given back (by an auto-encoder)."""
    del training
    inputs = rng.integers(0, config.vocab_size - 1, (n, config.seq_len))
    inputs[:, -1] = config.vocab_size - 1
    return _examples(inputs, inputs, np.ones(inputs.shape, bool))


def selective_copying(rng, config, n: int, training: bool) -> dict[str, np.ndarray]:
    """Content ids among blanks, then the copy id, then blanks where the content is to be named.

    The copy id is V - 1, the blank V - 2. Each blank before the copy id stands before one of the
    content ids, chosen uniformly.
    """
    del training
    copy, blank, count = config.vocab_size - 1, config.vocab_size - 2, config.num_tokens_to_copy
    blanks = config.seq_len - 2 * count - 1
    content = rng.integers(0, blank, (n, count))
    tokens = np.concatenate([np.full((n, blanks), blank), content], axis=1)
    places = np.concatenate(
        [2 * rng.integers(0, count, (n, blanks)), np.tile(2 * np.arange(count) + 1, (n, 1))], axis=1
    )
    tokens = np.take_along_axis(tokens, np.argsort(places, axis=1, kind="stable"), axis=1)
    ends = np.concatenate([np.full((n, 1), copy), np.full((n, count), blank)], axis=1)
    inputs = np.concatenate([tokens, ends], axis=1)
    targets = np.zeros_like(inputs)
    targets[:, -count:] = content
    counted = np.zeros(inputs.shape, bool)
    counted[:, -count:] = True
    return _examples(inputs, targets, counted)


GENERATORS = {
    "in_context_recall": in_context_recall,
    "noisy_in_context_recall": noisy_in_context_recall,
    "fuzzy_in_context_recall": fuzzy_in_context_recall,
    "memorization": memorization,
    "selective_copying": selective_copying,
    "compression": compression,
}
