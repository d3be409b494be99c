# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Text of tensorflow-datasets: any builder with a feature "text", and one of our own for files.

All of it without TensorFlow, through ArrayRecord and `tfds.data_source`. Import this module only
where tensorflow-datasets is wanted: `pip install tensorflow-datasets importlib_resources`.
"""

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

try:
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.registered import skip_registration
except ImportError as error:
    raise ImportError(
        "dataset: wanted the package tensorflow-datasets: "
        "pip install tensorflow-datasets importlib_resources"
    ) from error

from experiments.text.documents import Document
from experiments.text.shards import Source
from experiments.text.sources import TextSource

# Our split -> tfds's usual name of it.
SPLITS = {"train": "train", "valid": "validation", "test": "test"}
TEXT, ID = "text", "id"


# Not registered: data already made is opened by its name, without this class.
with skip_registration():

    class LocalText(tfds.core.GeneratorBasedBuilder):
        """Documents of local files as ArrayRecord, in their order, each with its place as "id"."""

        name = "local_text"
        VERSION = tfds.core.Version("1.0.0")

        def __init__(self, *, sources: dict[str, list[TextSource]], boundary: str, data_dir: Path):
            self._sources, self._boundary = sources, boundary
            super().__init__(data_dir=data_dir, file_format="array_record")

        def _info(self) -> tfds.core.DatasetInfo:
            features = tfds.features.FeaturesDict(
                {TEXT: tfds.features.Text(), ID: tfds.features.Text()}
            )
            return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

        def _split_generators(self, dl_manager):
            del dl_manager
            return {SPLITS[split]: self._examples(group) for split, group in self._sources.items()}

        def _examples(self, group: list[TextSource]) -> Iterator[tuple[int, dict]]:
            number = 0
            for source in group:
                for document in source.documents(self._boundary):
                    yield number, {TEXT: document.text, ID: document.where}
                    number += 1

        def _generate_examples(self):
            raise NotImplementedError("abstract in tfds; _split_generators has generators already")


def build(sources: dict[str, list[TextSource]], boundary: str, data_dir: Path) -> Path:
    """Writes `data_dir`/local_text/1.0.0 ; returns it.

    `tfds.data_source("local_text", data_dir=..., split="train")` reads it, and so does
    `--dataset=tfds:local_text`.

    Args:
        sources: split ("train", "valid", "test") -> where its documents come from.
        boundary: for `read_documents`.
    Raises:
        ValueError: it is there already, or there is nothing to train on.
    """
    if "train" not in sources:  # which `open_sources` refuses to read
        raise ValueError("data: wanted files and folders to train on, got none")
    builder = LocalText(sources=sources, boundary=boundary, data_dir=data_dir)
    if builder.is_prepared():
        raise ValueError(f"out: wanted a new folder, but {builder.data_dir} is a data set already")
    builder.download_and_prepare()
    return Path(builder.data_dir)


@dataclasses.dataclass(frozen=True)
class TfdsSource:
    """A split of a data set whose examples have a "text".

    Attributes:
        name, split: tfds's names.
        fingerprint: of version, sizes and number of examples.
        records: the examples.
    """

    unit: ClassVar[str] = "doc"
    name: str
    split: str
    fingerprint: str
    records: Sequence[dict]

    @property
    def size(self) -> int:
        return len(self.records)

    def documents(self, boundary: str) -> Iterator[Document]:
        """See sources.py; what an example's text is, `boundary` does not change."""
        del boundary
        for number in range(len(self.records)):
            text = self.records[number][TEXT]
            encoded = text.encode() if isinstance(text, str) else bytes(text)
            yield Document(encoded, f"tfds:{self.name}, {self.split} {number}", number + 1)

    def describe(self, split: str) -> Source:
        return Source(split, f"tfds:{self.name}:{self.split}", self.fingerprint)


def open_sources(name: str, data_dir: str | None) -> dict[str, list[TextSource]]:
    """The splits train, validation and test of a data set, those that it has.

    Args:
        name: "tfds:" and the data set's NAME, NAME/CONFIG or NAME/CONFIG:VERSION. Data not there
            is prepared by its builder, which may download it.
        data_dir: where tfds keeps data sets; None is its default.
    Raises:
        ValueError: no such data set, none with a feature "text", or none to train on.
    """
    name = name.removeprefix("tfds:")
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except (tfds.core.DatasetNotFoundError, ValueError) as error:
        raise ValueError(f"dataset: wanted tfds:NAME of a data set, got {name!r}") from error
    if TEXT not in (builder.info.features or {}):
        raise ValueError(f'dataset: wanted a data set with a feature "text", {name!r} has none')
    if not builder.is_prepared():
        builder.download_and_prepare(file_format="array_record")
    found = {ours: split for ours, split in SPLITS.items() if split in builder.info.splits}
    if "train" not in found:
        raise ValueError(f"dataset: wanted a data set with a split 'train', {name!r} has none")
    return {ours: [_open_split(builder, split)] for ours, split in found.items()}


def _open_split(builder: tfds.core.DatasetBuilder, split: str) -> TfdsSource:
    info = builder.info.splits[split]
    facts = f"{builder.info.full_name} {info.shard_lengths} {info.num_bytes}"
    digest = hashlib.sha256(facts.encode()).hexdigest()
    records = builder.as_data_source(split)
    return TfdsSource(builder.info.full_name, split, digest, records)
