"""Tasks whose relations are known: the truth beside them is that of their rows."""

from __future__ import annotations

import pytest
import torch

import quickstudy as qs
from quickstudy.tasks import related


def fitted(rows: qs.Examples) -> torch.Tensor:
    """The least-squares weights of one task."""
    return torch.linalg.lstsq(rows.inputs.double(), rows.targets.double()).solution[:, 0]


def test_targets_follow_the_stated_weights_and_noise():
    made = related(5, 2, noise=0.3, features=8, rows=4000, seed=2)
    for w, rows in zip(made.weights, made.tasks.values(), strict=True):
        # deviations of least squares are 0.3 / √4000 = 0.005 a weight; of the residual 0.0034
        assert (fitted(rows) - w).abs().max() < 6 * 0.005
        residual = rows.targets[:, 0].double() - rows.inputs.double() @ w
        assert abs(float(residual.std()) - 0.3) < 6 * 0.0034


def test_clusters_are_orthogonal_and_harmful_tasks_point_against_all():
    made = related(12, 3, noise=0.1, harmful=2, spread=0.0)
    assert torch.bincount(made.clusters[~made.harmful]).tolist() == [4, 4, 4]
    cosines = made.weights @ made.weights.T
    same = made.clusters[:, None] == made.clusters
    expected = same.double()
    expected[made.harmful] = -1 / 3**0.5
    expected[:, made.harmful] = -1 / 3**0.5
    expected[made.harmful[:, None] & made.harmful] = 1.0
    torch.testing.assert_close(cosines, expected)


@pytest.mark.parametrize("seed", range(3))
def test_harmful_tasks_make_pooled_weights_worse_for_the_others(seed):
    """They are the mean of all tasks: the centre c of 8, and (8 - 4) / 12 c with 4 harmful."""
    made = related(8, 1, noise=0.1, harmful=4, rows=200, spread=0.0, seed=seed)
    assert made.harmful.sum() == 4
    names = [n for n, bad in zip(made.tasks, made.harmful.tolist(), strict=True) if not bad]
    centre = made.weights[~made.harmful][0]

    def pooled(tasks: qs.tasks.NamedTasks) -> torch.Tensor:
        inputs, targets = (
            torch.cat([getattr(rows, part) for rows in tasks.values()])
            for part in ("inputs", "targets")
        )
        return torch.linalg.lstsq(inputs.double(), targets.double()).solution[:, 0]

    assert (pooled(made.tasks.only(names)) - centre).norm() < 0.05
    assert 0.5 < float((pooled(made.tasks) - centre).norm()) < 0.85


@pytest.mark.parametrize("answer", [qs.answers.Classes(2), qs.answers.Labels(1)])
def test_classes_say_whether_the_target_is_positive(answer):
    made = related(3, 1, noise=0.0, rows=(20, 40), answer=answer)
    sizes = list(made.tasks.counts.values())
    assert min(sizes) >= 20
    assert max(sizes) <= 40
    assert len(set(sizes)) > 1
    for w, rows in zip(made.weights, made.tasks.values(), strict=True):
        margin = rows.inputs.double() @ w
        sure = margin.abs() > 1e-4  # inputs are rounded to float32
        assert torch.equal(rows.targets.flatten()[sure] > 0, (margin > 0)[sure])


def test_a_seed_gives_the_same_tasks():
    first, again, other = (related(4, 2, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.tasks["task_3"].inputs, again.tasks["task_3"].inputs)
    assert not torch.equal(first.tasks["task_3"].inputs, other.tasks["task_3"].inputs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clusters": 5}, "at most the number of tasks and of features"),
        ({"clusters": 3, "features": 2}, "at most the number of tasks and of features"),
        ({"harmful": -1}, "harmful at least 0"),
        ({"clusters": 1.5}, r"all are whole numbers.*clusters=1.5"),
        ({"noise": -0.1}, "noise and spread must be finite numbers of at least 0"),
        ({"answer": qs.answers.Classes(3)}, "must be Reals"),
    ],
)
def test_impossible_relations_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        related(4, **options)
