"""Every classifier has stranger scores, or says why not; and calibrates."""

from __future__ import annotations

import pytest
import torch
from contract_cases import CLASSIFIERS, classifier, source_for

import quickstudy as qs
from quickstudy.contract.check import doubled
from quickstudy.tasks.numbering import draw

NO_LOGIT = {
    "matching", "matching, full context",
}  # fmt: skip
"""Learners whose outputs are logarithms of probabilities."""


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_each_classifier_has_stranger_scores_or_says_why_not(name: str) -> None:
    learner, task = classifier(name), doubled(draw(source_for(name), 0, 0))
    predictor = learner(task.support, task.spec)
    try:
        scores = qs.stranger_score(predictor, task.query.inputs)
    except ValueError as error:
        assert "logarithms of probabilities" in str(error)
        assert name in NO_LOGIT
        return
    assert name not in NO_LOGIT
    with torch.no_grad():
        expected = -predictor(task.query.inputs).amax(1)
    assert torch.equal(scores, expected)
