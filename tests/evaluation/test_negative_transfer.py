"""A source's effect is the difference of scores with and without it; planted harm is found."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

import quickstudy as qs
from quickstudy.evaluation.negative_transfer import negative_transfer
from quickstudy.evaluation.source_predictors import domain_distance, gradient_cosine
from quickstudy.tasks.numbering import Stream, draw

SPEC, PROBE = qs.classification(2), qs.LinearProbe(torch.nn.Identity())


def side(n: int, w: list[float], seed: int, flip: bool = False) -> qs.Examples:
    """Vectors by the side of a plane they are on."""
    x = torch.randn(n, len(w), generator=torch.Generator().manual_seed(seed))
    y = (x @ torch.tensor(w).float() > 0).long()
    return qs.examples(x, 1 - y if flip else y)


def sources() -> dict[str, qs.Examples]:
    return {"like": side(30, [1, 1], 1), "flipped": side(30, [1, 1], 2, flip=True)}


def test_the_gains_are_differences_of_accuracy_with_and_without_a_source() -> None:
    """Each division again, by learners called by hand on rows that are put together by hand."""
    target, given = side(60, [1, 1], 3), sources()
    found = negative_transfer(PROBE, given, target, SPEC, labelled=3, repeats=4, seed=5)
    tasks = qs.tasks.transfer(list(given.values()), target, SPEC, labelled=3)
    gains, alone, wholes = [], [], []
    for number in range(4):
        support, query, _ = draw(tasks, 5, number, Stream.TEST)

        def accuracy(groups: set[int], s: qs.Examples = support, q: qs.Examples = query) -> float:
            kept = [i for i, g in enumerate(s.groups.tolist()) if g in groups]
            rows = qs.examples(s.inputs[kept], s.targets[kept])
            return float((PROBE(rows, SPEC)(q.inputs).argmax(1) == q.targets).float().mean())

        wholes.append(accuracy({0, 1, 2}))
        gains.append(wholes[-1] - accuracy({0, 1}))
        alone.append(accuracy({0, 2}) - accuracy({0}))
    row = found.table[0]
    assert row.name == "flipped"
    assert row.gain == pytest.approx(np.mean(gains), abs=1e-6)
    assert row.alone == pytest.approx(np.mean(alone), abs=1e-6)
    assert row.values.tolist() == pytest.approx(np.add(gains, alone) / 2, abs=1e-6)
    spread = np.std(np.add(gains, alone) / 2, ddof=1) / 2  # of the mean of 4
    assert row.half_width == pytest.approx(3.182446 * spread, rel=1e-5)  # Student's t, 3 degrees
    assert found.with_all == pytest.approx(np.mean(wholes), abs=1e-6)
    assert row.effect == pytest.approx((row.gain + row.alone) / 2)


def test_harm_and_help_are_told_apart_and_said() -> None:
    found = qs.negative_transfer(
        PROBE, sources(), side(100, [1, 1], 3), SPEC, labelled=2, repeats=8
    )
    assert found.harmful == ["flipped"]
    assert [row.verdict for row in found.table] == ["harms", "helps"]
    text = str(found)
    assert text.startswith("accuracy ")
    assert "8 divisions, seed 0" in text
    assert "flipped  -" in text
    saved = json.loads(json.dumps(found.to_json()))
    assert [row["name"] for row in saved["table"]] == ["flipped", "like"]
    assert len(saved["table"][0]["values"]) == 8


def test_a_source_without_effect_is_not_accused() -> None:
    """Rows of weight 0 change nothing, so that every difference is 0."""
    nothing = sources()["flipped"]._replace(weights=torch.zeros(30))
    given = {"like": sources()["like"], "nothing": nothing}
    found = negative_transfer(PROBE, given, side(60, [1, 1], 3), SPEC, labelled=3, repeats=3)
    row = next(row for row in found.table if row.name == "nothing")
    assert (row.effect, row.half_width, row.verdict) == (0.0, 0.0, "neither shown")


def test_without_labelled_target_rows_the_effect_is_the_gain_among_the_others() -> None:
    found = negative_transfer(PROBE, sources(), side(60, [1, 1], 3), SPEC, labelled=0, repeats=3)
    assert found.target_only is None
    for row in found.table:
        assert math.isnan(row.alone)
        assert math.isnan(row.gradient_cosine)
        assert row.effect == row.gain


def test_lower_losses_are_gains_of_real_targets() -> None:
    x = torch.linspace(-1, 1, 40)[:, None]
    given = {"like": qs.examples(x, 2 * x), "opposite": qs.examples(x, -2 * x)}
    found = negative_transfer(
        PROBE, given, qs.examples(x, 2 * x), qs.regression(), labelled=3, repeats=3
    )
    assert [row.name for row in found.table] == ["opposite", "like"]
    assert found.table[0].effect < 0 < found.table[1].effect


def test_the_gradient_cosine_is_that_of_autograd() -> None:
    """Of the cross-entropy of a linear model at weights 0 and its best offset."""
    rows = [side(30, [1.0, 0.5, 0.0], 1), side(20, [0.5, -1.0, 0.0], 2)]

    def gradient(given: qs.Examples) -> torch.Tensor:
        weight = torch.zeros(3, 2, requires_grad=True)
        offset = torch.bincount(given.targets, minlength=2).float().log()
        logits = (given.inputs - given.inputs.mean(0)) @ weight + offset
        torch.nn.functional.cross_entropy(logits, given.targets).backward()
        assert weight.grad is not None
        return weight.grad.flatten()

    expected = torch.nn.functional.cosine_similarity(*map(gradient, rows), dim=0)
    assert gradient_cosine(PROBE, *rows, SPEC) == pytest.approx(float(expected), abs=1e-6)
    flipped = rows[0]._replace(targets=1 - rows[0].targets)
    assert gradient_cosine(PROBE, rows[0], flipped, SPEC) == pytest.approx(-1.0)


def test_unlabelled_rows_and_rows_without_weight_do_not_change_the_gradient() -> None:
    one, other = side(30, [1, 1], 1), side(20, [1, 0], 2)
    more = qs.Examples(
        torch.cat([one.inputs, 9 * torch.ones(2, 2)]),
        torch.cat([one.targets, torch.tensor([-1, 0])]),
        torch.cat([one.weights, torch.tensor([1.0, 0.0])]), torch.zeros(32).long(),
    )  # fmt: skip
    assert gradient_cosine(PROBE, more, other, SPEC) == pytest.approx(
        gradient_cosine(PROBE, one, other, SPEC)
    )


def test_the_domain_distance_is_2_where_inputs_tell_and_about_0_where_they_do_not() -> None:
    """Within 0.5 for five pairs of 100 rows: the standard deviation of a share is 0.05, so of the
    distance 0.14 to 0.2."""
    near, far = [], []
    for seed in range(5):
        one, other = side(100, [1, 1], 2 * seed), side(100, [1, 1], 2 * seed + 1)
        near.append(domain_distance(one, other, PROBE, 0))
        moved = other._replace(inputs=other.inputs + 20)
        far.append(domain_distance(one, moved, PROBE, 0))
    assert abs(np.mean(near)) < 0.5
    assert far == [2.0] * 5
    flipped = one._replace(targets=1 - one.targets)
    assert domain_distance(one, other, PROBE, 0) == domain_distance(flipped, other, PROBE, 0)


def test_features_of_the_backbone_are_compared() -> None:
    """A backbone that keeps the first column alone does not see the move of the second."""
    keep_first = torch.nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        keep_first.weight.copy_(torch.tensor([[1.0, 0.0]]))
    one, other = side(100, [1, 1], 0), side(100, [1, 1], 1)
    other = other._replace(inputs=other.inputs + torch.tensor([0.0, 20.0]))
    assert domain_distance(one, other, PROBE, 0) == 2.0
    assert domain_distance(one, other, qs.LinearProbe(keep_first), 0) < 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sources": {}}, "at least 1 source; found none"),
        ({"repeats": 1}, "repeats must be"),
        ({"seed": -1}, "seed must be"),
        ({"learner": "probe"}, "learner must be a Learner; found str"),
        ({"labelled": 0, "sources": {"a": side(9, [1, 1], 0)}}, "found 1 source and no labelled"),
        ({"labelled": 90}, "90 labelled rows of each class asked"),
        ({"sources": {"a": side(9, [1, 1, 1], 0)}}, "need the same columns"),
    ],
)
def test_what_cannot_be_compared_is_refused(change: dict[str, object], message: str) -> None:
    arguments = {
        "learner": PROBE,
        "sources": sources(),
        "target": side(60, [1, 1], 3),
        "spec": SPEC,
    }
    with pytest.raises(ValueError, match=message):
        negative_transfer(**arguments | change)  # type: ignore[arg-type]
