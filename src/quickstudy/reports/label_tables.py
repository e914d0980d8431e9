"""A table of the labels of multi-label tasks: ROC-AUC and counts of each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from quickstudy.answers.metrics import roc_auc
from quickstudy.base.words import count
from quickstudy.reports.markup import Markup, breakable, join, tag
from quickstudy.reports.view_types import Array, LabelsView

LABELS_SHOWN = 40


def label_table(views: Sequence[LabelsView]) -> Markup:
    """Each label of ``views`` by name: ROC-AUC over all queries, and how many are known."""
    pooled: dict[str, list[tuple[Array, Array]]] = {}
    for view in views:
        for column, name in enumerate(view.names):
            pairs = view.probability[:, column], view.query_targets[:, column]
            pooled.setdefault(name, []).append(pairs)
    names = list(pooled)[:LABELS_SHOWN]
    heads = ("label", "ROC-AUC", "", "yes", "no", "unknown")
    head = tag("tr", *(tag("th", name, scope="col") for name in heads))
    table = tag(
        "table",
        tag("thead", head),
        tag("tbody", *(_line(name, pooled[name]) for name in names)),
        class_="numbers",
    )
    left = len(pooled) - len(names)
    more = tag("p", f"Not shown: {count(left, 'more label')}.", class_="note") if left else None
    return join(tag("div", table, class_="scroll"), more)


def _line(name: str, pairs: Sequence[tuple[Array, Array]]) -> Markup:
    probability, targets = (np.concatenate(part) for part in zip(*pairs, strict=True))
    area = _area(probability, targets)
    counts = (int((targets == 1).sum()), int((targets == 0).sum()), int(np.isnan(targets).sum()))
    bar = None
    if np.isfinite(area):
        bar = tag("span", tag("i", style=f"width: {100 * area:.1f}%"), class_="bar")
    return tag(
        "tr",
        tag("th", breakable(name), scope="row"),
        tag("td", f"{area:.3f}" if np.isfinite(area) else "–"),
        tag("td", bar),
        *(tag("td", f"{count:,}") for count in counts),
    )


def _area(probability: Array, targets: Array) -> float:
    scores, known = (torch.from_numpy(part).double() for part in (probability, targets))
    return float(roc_auc(scores, known, torch.ones_like(scores)))
