"""The page of a comparison is whole for every kind of comparison, and shows what it found."""

from __future__ import annotations

import re
import sys
from dataclasses import replace

import pytest
import torch
from comparison_samples import comparison, entry, sample_scores, usual, with_shots

from quickstudy.reports import page_parts
from quickstudy.reports.comparison_matrix import SIGNS, matrix
from quickstudy.reports.comparison_page import ComparisonFacts, comparison_page
from quickstudy.reports.comparison_rows import rows_of, versus
from quickstudy.reports.comparison_words import answer
from quickstudy.selection.comparing.comparison import BASELINE, LEARNER, Comparison, Entry


@pytest.fixture(scope="module")
def whole() -> str:
    """The page of the usual comparison, with curves over shots."""
    return page(with_shots(usual()))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made but not written, and the diagram of ranks is not: both take seconds."""
    monkeypatch.setitem(sys.modules, "scikit_posthocs", None)
    monkeypatch.setattr(page_parts, "to_svg", lambda drawing, ids, label: f'<svg id="{ids}-1"/>')


def page(*tables: Comparison) -> str:
    return comparison_page(ComparisonFacts("Which?", tables))


def transductive() -> Comparison:
    scores = sample_scores({"reptile": 0.95, "chance": 0.2})
    return comparison(
        [entry("reptile", scores["reptile"], title="Reptile", transductive=True),
         entry("chance", scores["chance"][:1], BASELINE)],
        protocol="transductive",
    )  # fmt: skip


def sections(text: str) -> dict[str, str]:
    """The page's sections by their headings."""
    parts = text.split("<section><h2>")[1:]
    return {part.split("</h2>")[0]: part for part in parts}


def test_the_page_has_every_part(whole: str) -> None:
    assert list(sections(whole)) == [
        "Ranking", "Every pair", "Score against cost", "More or fewer shots", "Failed",
        "How to reproduce this",
    ]  # fmt: skip
    for sentence in answer(usual()):
        assert sentence in whole
    assert whole.count("<svg") == 2 + 4 + 1
    for ids in ("scores", "ranks", "cost-0", "cost-1", "cost-2", "cost-3", "shots"):
        assert f'id="{ids}-' in whole
    assert "ValueError: the loss is NaN at step 40" in sections(whole)["Failed"]
    assert "<dt>Budget of a training</dt><dd>1 min of CPU time</dd>" in whole


def test_the_matrix_reads_the_same_from_both_sides() -> None:
    table = usual()
    rows = rows_of(table)
    lines = re.findall(r"<tr>.*?</tr>", matrix(table))[1:]
    cells = [re.findall(r"<td.*?</td>", line) for line in lines]
    assert len(cells) == len(rows) == 6
    for i, first in enumerate(rows):
        assert cells[i][i] == '<td class="self"></td>'
        for j, second in enumerate(rows):
            if i == j:
                continue
            pair = versus(table, first.name, second.name)
            assert pair is not None
            shown = f"<b>{SIGNS[pair.verdict]} {pair.verdict}</b><span>{100 * pair.difference:+.1f}"
            assert shown in cells[i][j]
    assert "▲ better" in cells[0][2]
    assert "▼ worse" in cells[2][0]
    assert "? not known" in cells[0][1]


def test_a_large_matrix_has_signs_and_a_key(quick: None) -> None:
    names = [f"learner {k} " + "with a very long name " * 9 for k in range(20)]
    scores = sample_scores({name: 0.9 - 0.02 * k for k, name in enumerate(names)}, tasks=20)
    table = comparison([entry(name, scores[name]) for name in names])
    shown = matrix(table)
    assert shown.count("<td") == 20 * 20 + 1
    assert "▲ better" not in shown
    assert all(f"<b>{sign}</b> {verdict}" in shown for verdict, sign in SIGNS.items())
    assert "All 190 pairs" in page(with_shots(table))


def test_names_and_reasons_are_text(quick: None) -> None:
    bad = "<script>alert('x')</script>"
    scores = sample_scores({bad: 0.8, "b": 0.7}, tasks=20)
    table = comparison([
        entry(bad, scores[bad]), entry("b", scores["b"], title="</style><b>"),
        Entry("<i>", "<i>", LEARNER, failure="<img src=x onerror=alert(1)>"),
    ], left_out={"<u>": "<s>"})  # fmt: skip
    text = comparison_page(ComparisonFacts(
        "<h1>", [with_shots(table)], subtitle="<p>", config={"<b>": bad}, command=bad,
    ))  # fmt: skip
    for tag in ("<script", "</style><b>", "<img", "<i>", "<u>", "<s>", "<h1><"):
        assert tag not in text, tag
    assert "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt;" in text
    assert "&lt;img src=x onerror=alert(1)&gt;" in text


def test_protocols_have_a_ranking_each(quick: None) -> None:
    text = page(usual(), transductive())
    found = sections(text)
    assert "Reptile" not in found["Ranking"]
    assert "Reptile" not in found["Every pair"]
    assert "Reptile" in found["Ranking: transductive"]
    assert "MAML" not in found["Ranking: transductive"]
    assert "must not be compared with inductive ones" in found["Transductive learners"]
    assert "With transductive results, in a ranking of their own below: Reptile." in text
    ids = re.findall(r' id="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert "Transductive: the queries" in page(transductive()).split("<section>", maxsplit=1)[0]


def test_without_the_extra_only_the_diagram_of_ranks_is_missing(quick: None, whole: str) -> None:
    text = page(with_shots(usual()))
    assert "pip install &#x27;quickstudy[compare]&#x27;" in text
    assert text.count("<svg") == whole.count("<svg") - 1
    assert list(sections(text)) == list(sections(whole))
    assert text == page(with_shots(usual()))


def test_with_one_seed_the_second_interval_is_not_known(quick: None) -> None:
    scores = sample_scores({"a": 0.8, "b": 0.7}, trainings=1)
    text = page(comparison([entry("a", scores["a"]), entry("b", scores["b"])]))
    ranking = sections(text)["Ranking"]
    assert ranking.count("<td>not known</td>") == 2
    assert "is not known: 1 training is too few, 3 are needed." in ranking
    assert "There is no baseline beside it." in text


def test_pages_of_little_are_whole(quick: None) -> None:
    failed = [Entry("a", "A", LEARNER, failure="no"), Entry("b", "B", LEARNER, failure="no")]
    nothing = page(comparison(failed))
    assert list(sections(nothing)) == ["Ranking", "Failed", "How to reproduce this"]
    assert "No learner has a result." in nothing
    assert "<svg" not in nothing
    one = page(comparison([entry("a", [torch.full((4,), 0.5)]), failed[1]]))
    assert "Only a has a result: accuracy 50.0%." in one
    tied = sample_scores({"a": 0.8}, tasks=20)["a"]
    free = page(comparison([
        replace(entry(name, tied, train_seconds=(0.0,) * 3), parameters=0, bytes=0)
        for name in "ab"
    ]))  # fmt: skip
    assert 'id="cost-1-' in free  # of adaptation; nothing else costs anything
    assert not any(f'id="cost-{k}-' in free for k in (0, 2, 3))
    with pytest.raises(ValueError, match="needs at least 1 comparison; found none"):
        page()


def test_undefined_and_infinite_scores_leave_the_page_whole(quick: None) -> None:
    table = usual()
    for value in (float("nan"), float("inf")):
        broken = replace(table.figures["maml"], mean=value)
        text = page(replace(table, figures={**table.figures, "maml": broken}))
        assert "nan" not in re.sub(
            r"<style>.*?</style>", "", text, flags=re.DOTALL
        ).lower().replace("the loss is nan", "")
        assert text.count("<svg") == 6 - 1
