"""Rewrites the tables of ``README.md`` and ``pairs.md`` from ``results/``.

    python benchmarks/tables.py          # after a measurement
    python benchmarks/tables.py --check  # says which tables differ from what the files give

A table stands in ``README.md`` between two markers,

    <!-- table: NAME -->
    <!-- end of table -->

and NAME is of ``table_rows.TABLES``. Those whose files keep scores of the same tasks (seeds, draws)
for several rows are also compared in pairs: ``pairs.md`` has every row against the best of its
group, and ``results/pairs.json`` every pair. Only groups whose scores have changed are compared
again; all of them take two CPU minutes.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path

from figures import as_json
from pair_groups import Compared, digest_of, groups, page, paired
from results_files import RESULTS
from table_rows import TABLES, markdown

from quickstudy.base.atomic import write_atomically

README = Path(__file__).parent / "README.md"
PAGE = Path(__file__).parent / "pairs.md"
_MARKED = re.compile(r"<!-- table: (\w+) -->\n.*?<!-- end of table -->", re.DOTALL)


def rewritten(text: str, table: Callable[[str], str] = markdown) -> str:
    """``text`` with every marked table computed anew; ValueError for a table that is not known."""

    def replaced(found: re.Match[str]) -> str:
        name = found[1]
        if name not in TABLES:
            raise ValueError(
                f"tables: no table is called {name}; there are {', '.join(TABLES)}. Correct the "
                "marker, or add the table to table_rows.py."
            )
        return f"<!-- table: {name} -->\n{table(name)}\n<!-- end of table -->"

    return _MARKED.sub(replaced, text)


def outdated(text: str) -> list[str]:
    """The names of the tables in ``text`` that are not what the files give."""
    return [
        found[1] for found in _MARKED.finditer(text) if rewritten(found[0]) != found[0]
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing")
    args = parser.parse_args()
    text = README.read_text()
    if args.check:
        found = outdated(text)
        raise SystemExit(f"differ from results/: {', '.join(found)}" if found else 0)
    write_atomically(README, rewritten(text).encode())
    file = RESULTS / "pairs.json"
    stored = json.loads(file.read_text()) if file.exists() else {}
    every = {}
    for group in groups():
        found = stored.get(group.title, {})
        if found.get("digest") != digest_of(group):
            found = paired(group).to_json()
            print(f"compared: {group.title}", flush=True)
        every[group.title] = (group, Compared.from_json(found))
    write_atomically(PAGE, page(every).encode())
    contents = {title: found.to_json() for title, (_, found) in every.items()}
    write_atomically(file, as_json(contents))


if __name__ == "__main__":
    main()
