# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Continues text with a trained model: python -m experiments.generate --workdir=DIR --prompt=TEXT

One prompt goes to the terminal while it is written. Those of --prompts_file (a line each, or JSON
lines with a "prompt") give JSON lines with "prompt" and "completion", several at a time.
"""

import json
import logging
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
from absl import flags
from tqdm import tqdm

from deltanet_jax.decoder import can_lay_out, lay_out
from deltanet_jax.sampling import Sampling
from experiments.command import run
from experiments.flags import define_generate_flags, define_workdir, explain
from experiments.logs import quiet_logs
from experiments.restored import restore_model, tokenizer_of
from experiments.text.completion import complete, document
from experiments.text.lines import read_json_lines


def read_prompts(name: str) -> list[str]:
    """The prompts of a file. Raises ValueError if it has none, or a line has no "prompt"."""
    path = Path(name)
    if not path.is_file():
        raise ValueError(f"prompts_file: wanted a file, got {name!r}")
    if path.suffix == ".jsonl":
        rows = [row.get("prompt") for row in read_json_lines(path, "prompts_file")]
        if not all(isinstance(prompt, str) for prompt in rows):
            raise ValueError(f'prompts_file: {name}: wanted a "prompt" with text in every line')
    else:
        try:
            rows = path.read_text().splitlines()
        except UnicodeDecodeError as error:
            raise ValueError(f"prompts_file: {name}: wanted UTF-8: {error}") from error
    if not rows:
        raise ValueError(f"prompts_file: {name}: wanted at least one prompt, got an empty file")
    return rows


def check_options(values: flags.FlagValues) -> None:
    """Raises ValueError, before any work, for flags that are impossible or come to nothing."""
    _sampling(values)
    if values.sample_tokens < 1:
        raise ValueError(f"sample_tokens: wanted at least 1, got {values.sample_tokens}")
    if values.prompts_file and values.prompt:
        raise ValueError("prompt: wanted either --prompt or --prompts_file, got both")
    if values.output_file and not values.prompts_file:
        raise ValueError("output_file: wanted --prompts_file with it, got none")
    if values.output_file and not Path(values.output_file).absolute().parent.is_dir():
        raise ValueError(f"output_file: wanted it in a folder, got {values.output_file!r}")


def completions(model, tokenizer, prompts, values: flags.FlagValues) -> list[str]:
    """The text after each prompt, in order; shown at once where there is one prompt."""
    options = {
        "sampling": _sampling(values),
        "stop": tuple(values.stop),
        # Compiling it pays where thousands of small kernels are started a second.
        "decoder": _decoder(model, min(values.rows, len(prompts))),
    }
    # Prompts of like length side by side; each prompt's key is its own, whatever the order.
    ids = [document(tokenizer, prompt) for prompt in prompts]
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    keys = jax.random.split(jax.random.key(values.sample_seed), len(ids))
    found = [""] * len(ids)
    for start in tqdm(range(0, len(ids), values.rows), unit="batch", disable=len(ids) == 1):
        chosen = order[start : start + values.rows]
        texts = complete(
            model,
            tokenizer,
            [ids[i] for i in chosen],
            values.sample_tokens,
            key=keys[jnp.array(chosen)],
            on_text=_show if len(ids) == 1 else lambda row, text: None,
            **options,
        )
        for i, text in zip(chosen, texts, strict=True):
            found[i] = text
    return found


def _sampling(values: flags.FlagValues) -> Sampling:
    return Sampling(values.temperature, values.top_k, values.top_p)


def _decoder(model, batch_size: int):
    if jax.default_backend() != "gpu" or not can_lay_out(model.config):
        return None
    return lay_out(model, batch_size=batch_size)


def _show(row: int, text: str) -> None:
    print(text, end="", flush=True)


def main(argv: list[str]) -> None:
    del argv
    quiet_logs()
    values = flags.FLAGS
    try:
        check_options(values)
        prompts = read_prompts(values.prompts_file) if values.prompts_file else [values.prompt]
        _, config, model = restore_model(Path(values.workdir))
        tokenizer = tokenizer_of(config, values.tokenizer)
        if not values.prompts_file:
            # Which kernels are chosen would be said in the middle of the text.
            logging.getLogger("pallas_kernels").setLevel(logging.WARNING)
            print(values.prompt, end="", flush=True)
            completions(model, tokenizer, prompts, values)
            print()
            return
        texts = completions(model, tokenizer, prompts, values)
    except (ValueError, ImportError) as error:
        sys.exit(f"error: {explain(error)}")
    rows = (
        json.dumps({"prompt": prompt, "completion": text}) + "\n"
        for prompt, text in zip(prompts, texts, strict=True)
    )
    if values.output_file:
        Path(values.output_file).write_text("".join(rows))
    else:
        sys.stdout.writelines(rows)


if __name__ == "__main__":
    define_workdir()
    define_generate_flags()
    run(main)
