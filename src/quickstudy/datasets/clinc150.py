"""CLINC150: 150 intents of requests to an assistant, 150 English texts of each, in 10 domains.

There is no customary few-shot split. These were drawn at random once (``splits/clinc150.json``):
``intents`` has 90, 30 and 30 intents of all domains, ``domains`` the intents of 6, 2 and 2 domains,
so that test tasks are about domains that training has not seen, and ``fifty`` 80, 20 and 50
intents, for test tasks of fifty ways. The rows of an intent are all its
texts, those of the published training, validation and test parts. Texts that are out of scope
belong to no intent (:func:`out_of_scope`). The file is verified by its SHA-256.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from pathlib import Path
from typing import NamedTuple

import torch

from quickstudy.answers.specs import classification
from quickstudy.base.names import unknown_name
from quickstudy.base.trees import map_tree
from quickstudy.datasets.cache import data_root, writable_folder
from quickstudy.datasets.dataset import Dataset, in_order
from quickstudy.datasets.limits import ArchiveError
from quickstudy.datasets.registry import card
from quickstudy.datasets.sources import fetch, find, published_split
from quickstudy.datasets.tokenizer import minilm_tokenizer
from quickstudy.tasks.domains import domains
from quickstudy.tasks.named_tasks import NamedTasks
from quickstudy.tasks.rows import LabelledRows

URL = (
    "https://raw.githubusercontent.com/clinc/oos-eval/"
    "828f8093932c8fe6ca7936c3d2e52903b1c523de/data/data_full.json"
)
FILE = "data_full.json"
SHA256 = card("clinc150").digest(FILE)
PARTS = ("train", "val", "test")
MOST_BYTES = 2**24
"""Of the file, unpacked: five times what it has."""


class Texts(NamedTuple):
    """The texts of one split, with the class of each."""

    texts: list[str]
    labels: list[str]


def load(
    root: str | Path | None = None, *, split: str = "intents", download: bool = True
) -> Dataset:
    """CLINC150 as tokens of all-MiniLM-L6-v2: ``ids`` and ``mask`` (rows, length).

    ``root``   holds ``clinc150/data_full.json`` as published, or packed as ``data_full.json.gz``.
               Otherwise it is downloaded.
    ``split``  "intents", "domains" or "fifty", see the module.

    Needs the extra ``text``, for the tokenizer. For another one, see :func:`load_texts`.
    """
    texts = load_texts(root, split=split, download=download)
    tokens = minilm_tokenizer()([text for part in texts.values() for text in part.texts])
    sizes = [len(part.texts) for part in texts.values()]
    domains = _domains()
    parts, start = {}, 0
    for (name, part), size in zip(texts.items(), sizes, strict=True):
        own = slice(start, start + size)
        rows = LabelledRows.from_labels(
            map_tree(lambda leaf, own=own: leaf[own], tokens), part.labels
        )
        of_classes = tuple(domains[intent] for intent in rows.names)
        parts[name] = LabelledRows(rows.inputs, rows.counts, rows.names, of_classes)
        start += size
    return Dataset(card("clinc150"), *in_order(parts))


def load_texts(
    root: str | Path | None = None, *, split: str = "intents", download: bool = True
) -> dict[str, Texts]:
    """The texts themselves: "train", "val" and "test" -> texts and their intents.

    The arguments are those of :func:`load`.
    """
    if split not in card("clinc150").splits:
        raise unknown_name("clinc150: split", split, dict.fromkeys(card("clinc150").splits))
    lists = published_split("clinc150")
    chosen = lists[f"{split}_split"]
    if split == "domains":
        of = lists["domains"]
        chosen = {part: [i for d in chosen[part] for i in of[d]] for part in chosen}
    part_of = {intent: part for part in PARTS for intent in chosen[part]}
    found: dict[str, Texts] = {part: Texts([], []) for part in PARTS}
    for text, intent in read(_source(data_root(root), download)):
        found[part_of[intent]].texts.append(text)
        found[part_of[intent]].labels.append(intent)
    return found


def load_named_tasks(root: str | Path | None = None, part: str = "train") -> NamedTasks:
    """A task for each of the 10 domains, "banking" to "meta": which of its 15 intents a text has.

    Inputs are tokens, as of :func:`load`.

    ``root``  as for :func:`load`; the file is downloaded where it is not there.
    ``part``  "train" with 100 texts of each intent, "val" with 20, or "test" with 30.
    """
    published = read_parts(_source(data_root(root), download=True))
    sizes = [len(published[each]) for each in PARTS]
    tokens = minilm_tokenizer()([text for each in PARTS for text, _ in published[each]])
    start = sum(sizes[: PARTS.index(part)])
    intents = [intent for _, intent in published[part]]
    made = {}
    for domain, members in published_split("clinc150")["domains"].items():
        places = [place for place, intent in enumerate(intents) if intent in members]
        ids = torch.tensor([members.index(intents[place]) for place in places])
        rows = torch.tensor(places) + start
        inputs = map_tree(lambda leaf, rows=rows: leaf[rows], tokens)
        made[domain] = (inputs, ids, classification(len(members)))
    return domains(made)


def out_of_scope(root: str | Path | None = None, *, download: bool = True) -> list[str]:
    """The 1,000 published test texts that are of none of the 150 intents.

    The arguments are those of :func:`load`.
    """
    content = _verified(_source(data_root(root), download))
    return [text for text, _ in json.loads(content)["oos_test"]]


def read(source: Path) -> list[tuple[str, str]]:
    """Every text of the published file with its intent; ArchiveError for another file."""
    published = read_parts(source)
    return [pair for part in PARTS for pair in published[part]]


def read_parts(source: Path) -> dict[str, list[tuple[str, str]]]:
    """The texts of each published part, with their intents; ArchiveError for another file."""
    published = json.loads(_verified(source))
    return {part: [(text, intent) for text, intent in published[part]] for part in PARTS}


def _verified(source: Path) -> bytes:
    """The bytes of the published file; ArchiveError for another one."""
    content = _unpacked(source)
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise ArchiveError(
            f"{source}: has the wrong checksum; it is altered or incomplete. Delete it and "
            "download it again."
        )
    return content


def _unpacked(source: Path) -> bytes:
    """The bytes of the file, of at most ``MOST_BYTES``."""
    with source.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    if source.suffix == ".gz":
        try:
            unpacking = zlib.decompressobj(wbits=31)
            content = unpacking.decompress(content, MOST_BYTES + 1)
        except zlib.error as error:
            raise ArchiveError(
                f"{source}: damaged or incomplete. Delete it and download it again."
            ) from error
    return content


def _source(root: Path, download: bool) -> Path:
    folders = [root / "clinc150", root]
    source = find(folders, [FILE, f"{FILE}.gz"])
    if source is not None:
        return source
    if not download:
        raise FileNotFoundError(
            f"clinc150: {FILE} is not in {folders[0]}. Allow the download, or get it from {URL} "
            "and put it there."
        )
    return fetch(URL, writable_folder(root, "clinc150"), f"sha256:{SHA256}")


def _domains() -> dict[str, str]:
    """Intent -> domain."""
    domains = published_split("clinc150")["domains"]
    return {intent: domain for domain, intents in domains.items() for intent in intents}
