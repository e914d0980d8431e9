"""SNIPS: voice commands with what is wanted (the intent) and what is named (the slots)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import torch

from quickstudy.answers.specs import classification, multilabel
from quickstudy.datasets.domains import read_verified
from quickstudy.datasets.tokenizer import minilm_tokenizer
from quickstudy.tasks.domains import domains
from quickstudy.tasks.named_tasks import NamedTasks

FILE = "snips_2017_06.json"
PARTS = ("train", "validation")


class Command(NamedTuple):
    """A command: its words, what is wanted, and which kinds of slots it has."""

    text: str
    intent: str
    slots: frozenset[str]


def load(root: str | Path | None = None, part: str = "train") -> NamedTasks:
    """Two tasks about the same commands: "intent", one of 7, and "slots", yes or no for each of 39.

    Inputs are tokens of all-MiniLM-L6-v2, ``ids`` and ``mask`` (n, length). The slots are asked as
    labels of a command: which kinds of slots it has, not which of its words they are.

    ``root``  holds ``snips/snips_2017_06.json``: the published training and validation files of the
              7 intents, joined.
    ``part``  "train", 13,784 commands, or "validation", 700.

    Needs the extra ``text``, for the tokenizer. Raises what
    :func:`~quickstudy.datasets.domains.read_verified` raises.
    """
    parts = read(root)
    commands = parts[part]
    every = [command for each in PARTS for command in parts[each]]
    intents = sorted({command.intent for command in every})
    slots = sorted({slot for command in every for slot in command.slots})
    tokens = minilm_tokenizer()([command.text for command in every])  # of one length in both parts
    start = 0 if part == PARTS[0] else len(every) - len(commands)
    tokens = {name: leaf[start : start + len(commands)] for name, leaf in tokens.items()}
    ids = torch.tensor([intents.index(command.intent) for command in commands])
    has = torch.tensor([[slot in command.slots for slot in slots] for command in commands])
    return domains(
        {
            "intent": (tokens, ids, classification(len(intents))),
            "slots": (tokens, has.long(), multilabel(len(slots))),
        }
    )


def read(root: str | Path | None) -> dict[str, list[Command]]:
    """The commands of each published part."""
    published = json.loads(read_verified(root, "snips", FILE))
    return {
        part: [
            Command(
                "".join(piece["text"] for piece in each["data"]).strip(),
                each["intent"],
                frozenset(piece["entity"] for piece in each["data"] if "entity" in piece),
            )
            for each in published[part]
        ]
        for part in PARTS
    }
