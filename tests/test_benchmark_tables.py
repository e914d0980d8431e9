"""The tables of ``benchmarks/README.md`` are what the results files give."""

from __future__ import annotations

import json
import shutil
import sys
from importlib import import_module
from itertools import combinations
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.append(str(BENCHMARKS))


def test_tables_are_what_the_files_give() -> None:
    tables = import_module("tables")
    text = tables.README.read_text()
    assert tables.outdated(text) == [], "run python benchmarks/tables.py"
    marked = set(tables._MARKED.findall(text))
    assert marked == set(import_module("table_rows").TABLES), "a table has no place in the README"


def test_a_changed_score_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of the 600 scores of one row, and none but its table differs."""
    tables, rows = import_module("tables"), import_module("results_files")
    shutil.copytree(rows.RESULTS, tmp_path / "results")
    monkeypatch.setattr(rows, "RESULTS", tmp_path / "results")
    file = tmp_path / "results" / "text.json"
    found = json.loads(file.read_text())
    found["intents MiniLM, nearest mean 1"]["scores"][7] -= 60
    file.write_text(json.dumps(found))
    assert tables.outdated(tables.README.read_text()) == ["text_intents"]


def test_an_unknown_table_is_refused() -> None:
    with pytest.raises(ValueError, match="no table is called nothing"):
        import_module("tables").rewritten("<!-- table: nothing -->\n<!-- end of table -->")


def test_every_pair_is_that_of_the_files() -> None:
    """Differences of means by hand; intervals contain them."""
    groups, statistics = import_module("pair_groups"), import_module("statistics")
    stored = json.loads((BENCHMARKS / "results" / "pairs.json").read_text())
    found = {group.title: group for group in groups.groups()}
    assert list(found) == list(stored), "run python benchmarks/tables.py"
    every = {t: (group, groups.Compared.from_json(stored[t])) for t, group in found.items()}
    assert groups.page(every) == (BENCHMARKS / "pairs.md").read_text()
    for title, group in found.items():
        means = {name: statistics.fmean(scores) for name, scores in group.scores.items()}
        assert stored[title]["digest"] == groups.digest_of(group), "run python benchmarks/tables.py"
        pairs = stored[title]["pairs"]
        names = {frozenset((pair["first"], pair["second"])) for pair in pairs}
        assert names == set(map(frozenset, combinations(means, 2)))
        for pair in pairs:
            difference = means[pair["first"]] - means[pair["second"]]
            expected = difference if group.higher else -difference
            assert pair["difference"] == pytest.approx(expected, abs=1e-6)
            low, high = pair["these"]
            assert low - 1e-6 <= pair["difference"] <= high + 1e-6


def test_pairs_of_a_group() -> None:
    """The worse of two rows by a constant is worse; a copy is equivalent."""
    groups = import_module("pair_groups")
    scores = [0.5 + 0.4 * (k % 7) / 7 for k in range(60)]
    lower = [score - 0.02 - 0.001 * (k % 3) for k, score in enumerate(scores)]
    group = groups.Group("g", "60 tasks", {"b": lower, "a": scores, "c": scores})
    of = groups.paired(group)
    assert list(of.ranked) == ["a", "c", "b"]
    verdicts = {(pair.first, pair.second): pair.verdict for pair in of.pairs}
    assert verdicts == {("a", "c"): "equivalent", ("a", "b"): "better", ("c", "b"): "better"}
    errors = groups.Group("g", "60 tasks", {"b": lower, "a": scores}, share=False, higher=False)
    assert [pair.verdict for pair in groups.paired(errors).pairs] == ["better"]
    assert "| a " in groups.page({"g": (group, of)})
    again = groups.Compared.from_json(json.loads(json.dumps(of.to_json())))
    assert again.to_json() == of.to_json()
