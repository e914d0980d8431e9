"""Writing the page of a comparison."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from quickstudy.base.atomic import write_atomically
from quickstudy.base.words import count
from quickstudy.datasets.registry import card
from quickstudy.interfaces.application_runs.recipe import data_name
from quickstudy.interfaces.runs.provenance import commit
from quickstudy.reports.comparison_page import ComparisonFacts, comparison_page
from quickstudy.selection.comparing.compared import Comparisons
from quickstudy.selection.comparing.stored import Folder

PAGE = "comparison.html"


def write_page(found: Comparisons, path: Path, command: str = "") -> Path:
    """Write the page of a comparison to the file ``path``."""
    settings = found.main.settings
    facts = ComparisonFacts(
        title=f"Learners on {_data(settings)}",
        subtitle=_tasks(settings),
        tables=found.tables,
        config=settings,
        command=command,
        commit=commit(),
        created=f"{datetime.now():%Y-%m-%d %H:%M}",
    )
    return write_atomically(path, comparison_page(facts).encode())


def write_page_again(folder: Path, path: Path | None = None) -> Path:
    """Write the page of the comparison in ``folder`` from its files."""
    return write_page(Folder(folder).read(), path or folder / PAGE)


def _data(settings: Any) -> str:
    name = settings.get("data")
    if not name:
        return "the same tasks"
    if application := settings.get("application"):
        return data_name(application, name, settings.get("root"))
    found = card(name)
    own = found.classes is None and settings.get("root")
    return Path(settings["root"]).name if own else found.title


def _tasks(settings: Any) -> str:
    if not settings.get("ways"):
        return ""
    queries = count(settings.get("queries") or 0, "query", "queries")
    return f"{settings['ways']}-way {settings['shots']}-shot, {queries} per class"
