"""Which files of the user's own a run read, so that it never goes on with others."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from quickstudy.base.atomic import write_atomically
from quickstudy.base.hidden import is_hidden
from quickstudy.base.json_text import damage_names, read_json
from quickstudy.base.shown import shown
from quickstudy.interfaces.application_runs.folder import ApplicationRun

FILE = "files.json"


def keep_files(run: ApplicationRun) -> None:
    """Record a digest of each of the user's own files; nothing for the library's data sets.

    Raises ValueError, naming a file, where others are recorded: if files were added since, they
    would be divided anew, and the test would have what the learner was trained on.
    """
    root = run.recipe.folder
    if not run.recipe.own or root is None:
        return
    found, file = digests(root), run.path / FILE
    if not file.exists():
        write_atomically(file, (json.dumps(found, indent=1) + "\n").encode())
        return
    with damage_names(file):
        recorded = dict(read_json(file, most=2**28))
    if recorded != found:
        raise ValueError(
            f"{run.path}: the data are no longer those of this run ({_difference(recorded, found)})"
            ", so that it would test on what the learner was trained on. Restore the files, or "
            "start a new run."
        )


def digests(root: Path) -> dict[str, str]:
    """A digest of each file in ``root`` by its path there, or of ``root`` itself if it is a file.

    Files and folders whose names begin with a dot are left out.
    """
    paths = [root] if root.is_file() else sorted(path for path in root.rglob("*") if path.is_file())
    found = {}
    for path in paths:
        inner = path.relative_to(root) if path != root else Path(path.name)
        if is_hidden(inner):
            continue
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8))
        found[inner.as_posix()] = digest.hexdigest()
    return found


def _difference(recorded: dict[str, str], found: dict[str, str]) -> str:
    """The first difference, in words."""
    for name in sorted({*recorded, *found}):
        if name not in recorded:
            return f"{shown(name)} is new"
        if name not in found:
            return f"{shown(name)} is gone"
        if recorded[name] != found[name]:
            return f"{shown(name)} has changed"
    return "none is as it was"
