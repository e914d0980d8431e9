"""Every classifier has stranger scores, or says why not; and calibrates."""

from __future__ import annotations

import pytest
import torch
from contract_cases import CLASSIFIERS, classifier, source_for

import quickstudy as qs
from quickstudy.contract.check import doubled
from quickstudy.tasks.numbering import draw

NO_LOGIT = ("matching", "memory_network")
"""Learners whose outputs are logarithms of probabilities."""


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_each_classifier_has_stranger_scores_or_says_why_not(name: str) -> None:
    learner, task = classifier(name), doubled(draw(source_for(name), 0, 0))
    predictor = learner(task.support, task.spec)
    if name.startswith(NO_LOGIT):
        with pytest.raises(ValueError, match="are logarithms of probabilities"):
            qs.stranger_score(predictor, task.query.inputs)
        nearest = qs.stranger_score(predictor, task.query.inputs, task.support)
        assert bool((nearest >= 0).all())
        return
    with torch.no_grad():
        expected = -predictor(task.query.inputs).amax(1)
    assert torch.equal(qs.stranger_score(predictor, task.query.inputs), expected)
