"""FewRel: sentences with two marked entities, and the relation between them.

Three domains: ``wiki``, 16 relations of Wikidata in 700 sentences of Wikipedia each; ``semeval``,
17 relations of SemEval-2010 task 8 (both directions of one are two) in 110 to 1,135 sentences;
``pubmed``, 10 relations of UMLS in 100 sentences of PubMed each. These are the validation files of
FewRel 1.0 and 2.0; the 64 training relations of FewRel are not used.

There is no customary split of these files. Here, test relations are the ``first`` or the ``second``
half of the Wikipedia relations, drawn at random once (``splits/fewrel.json``); training relations
are those of the other half and of SemEval. With ``pubmed``, all of these train, and the relations
of PubMed are the test: another domain.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from quickstudy.base.names import unknown_name
from quickstudy.base.trees import map_tree
from quickstudy.datasets.cache import data_root, writable_folder
from quickstudy.datasets.clinc150 import Texts
from quickstudy.datasets.dataset import Dataset
from quickstudy.datasets.domains import read_verified
from quickstudy.datasets.entity_tokens import entity_tokens
from quickstudy.datasets.registry import card
from quickstudy.datasets.sources import fetch, find, published_split
from quickstudy.datasets.tokenizer import minilm_tokenizer
from quickstudy.tasks.rows import LabelledRows

URL = (
    "https://raw.githubusercontent.com/thunlp/FewRel/278a2315d2138810a379cd8d5718914dc56e2582/data"
)
DOMAINS = ("wiki", "semeval", "pubmed")
NAMES = "pid2name.json"


class Sentence(NamedTuple):
    """A sentence that says ``relation`` of two entities.

    ``words``  of the sentence, punctuation included.
    ``head``   the places of the words of the first entity, and ``tail`` of the second, in their
               first mention. Wikipedia's relations are read "head has the RELATION tail".
    """

    words: tuple[str, ...]
    head: tuple[int, ...]
    tail: tuple[int, ...]
    relation: str

    @property
    def text(self) -> str:
        """The words with a space between them."""
        return " ".join(self.words)


def load(root: str | Path | None = None, *, split: str = "first", download: bool = True) -> Dataset:
    """FewRel as tokens of all-MiniLM-L6-v2: ``ids``, ``mask``, ``head`` and ``tail`` (rows, length).

    ``head`` and ``tail`` are True at the tokens of the two entities; superclasses are the domains.

    ``root``   holds ``fewrel/val_wiki.json``, ``val_semeval.json``, ``val_pubmed.json`` and
               ``pid2name.json`` as published, or packed as ``.json.gz``. Otherwise they are
               downloaded.
    ``split``  "first", "second" or "pubmed", see the module.

    Needs the extra ``text``, for the tokenizer.
    """  # noqa: E501
    parts = read_parts(root, split=split, download=download)
    sentences = [sentence for part in parts.values() for sentence in part]
    tokens = entity_tokens(minilm_tokenizer(), sentences)
    domain_of = _domains(root, download)
    made, start = {}, 0
    for name, part in parts.items():
        own = slice(start, start + len(part))
        start += len(part)
        rows = LabelledRows.from_labels(
            map_tree(lambda leaf, own=own: leaf[own], tokens), [each.relation for each in part]
        )
        of_classes = tuple(domain_of[relation] for relation in rows.names)
        made[name] = LabelledRows(rows.inputs, rows.counts, rows.names, of_classes)
    return Dataset(card("fewrel"), made["train"], made["train"].without_classes(), made["test"])


def load_texts(
    root: str | Path | None = None, *, split: str = "first", download: bool = True
) -> dict[str, Texts]:
    """The sentences without their marks: "train", "val" (none) and "test" -> texts and relations.

    The arguments are those of :func:`load`.
    """
    parts = {"train": [], "val": [], "test": []} | read_parts(root, split=split, download=download)
    return {
        name: Texts([each.text for each in part], [each.relation for each in part])
        for name, part in parts.items()
    }


def read_parts(
    root: str | Path | None = None, *, split: str = "first", download: bool = True
) -> dict[str, list[Sentence]]:
    """The sentences of the relations to train on and to test on: "train" and "test".

    The arguments are those of :func:`load`.
    """
    if split not in card("fewrel").splits:
        raise unknown_name("fewrel: split", split, dict.fromkeys(card("fewrel").splits))
    wiki, semeval = (read(root, domain, download=download) for domain in ("wiki", "semeval"))
    if split == "pubmed":
        return {"train": semeval + wiki, "test": read(root, "pubmed", download=download)}
    names = _names(root, download)
    test = {names[each] for each in published_split("fewrel")["halves"][split]}
    return {
        "train": semeval + [each for each in wiki if each.relation not in test],
        "test": [each for each in wiki if each.relation in test],
    }


def read(root: str | Path | None, domain: str, *, download: bool = True) -> list[Sentence]:
    """All sentences of one domain, "wiki", "semeval" or "pubmed".

    A relation of Wikipedia has its name in Wikidata, such as "member of".

    Raises ValueError for another domain, FileNotFoundError where a file is missing, and
    ArchiveError where one is damaged.
    """
    if domain not in DOMAINS:
        raise unknown_name("fewrel: domain", domain, dict.fromkeys(DOMAINS))
    published = json.loads(_file(root, f"val_{domain}.json", download))
    names = _names(root, download) if domain == "wiki" else {}
    return [
        _sentence(row, names.get(relation, relation))
        for relation, rows in published.items()
        for row in rows
    ]


def _sentence(row: dict[str, Sequence], relation: str) -> Sentence:
    (_, _, heads), (_, _, tails) = row["h"], row["t"]
    return Sentence(tuple(row["tokens"]), tuple(heads[0]), tuple(tails[0]), relation)


def _names(root: str | Path | None, download: bool) -> dict[str, str]:
    """The name of each relation of Wikidata."""
    return {number: name for number, (name, _) in json.loads(_file(root, NAMES, download)).items()}


def _domains(root: str | Path | None, download: bool) -> dict[str, str]:
    """Relation -> domain."""
    return {
        sentence.relation: domain
        for domain in DOMAINS
        for sentence in read(root, domain, download=download)
    }


def _file(root: str | Path | None, name: str, download: bool) -> bytes:
    """The bytes of one published file, which is downloaded where it is missing and may be."""
    top = data_root(root)
    if download and find([top / "fewrel", top], [name, f"{name}.gz"]) is None:
        folder = writable_folder(top, "fewrel")
        fetch(f"{URL}/{name}", folder, f"sha256:{card('fewrel').digest(name)}")
        return read_verified(folder.parent, "fewrel", name)
    return read_verified(top, "fewrel", name)
