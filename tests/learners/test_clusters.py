"""k-means and Gaussian mixtures equal scikit-learn's without labels, and closed forms with them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans as KMeansOfSklearn
from sklearn.mixture import GaussianMixture as MixtureOfSklearn
from sklearn.naive_bayes import GaussianNB

import quickstudy as qs
from made_up import examples_of
from quickstudy.core import Learner
from quickstudy.tasks.transfer import without_labels

IDENTITY = torch.nn.Identity()


def blobs(n: int = 60, k: int = 3, apart: float = 4.0, seed: int = 0) -> qs.Examples:
    """Classes around corners, each with its own spread; float64."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % k
    x = torch.randn(n, 3, generator=generator, dtype=torch.float64) * (1 + 0.3 * y[:, None])
    x += apart * torch.nn.functional.one_hot(y, 3)
    return examples_of(x, y)


def hidden(rows: qs.Examples, kept: list[int]) -> qs.Examples:
    """Rows of which only those at ``kept`` keep their labels."""
    targets = torch.full_like(rows.targets, -1)
    targets[kept] = rows.targets[kept]
    return rows._replace(targets=targets)


def test_k_means_without_labels_is_that_of_scikit_learn() -> None:
    rows = blobs(apart=4.0)
    found = qs.KMeans(IDENTITY)(without_labels(rows), qs.clustering(3)).state["means"]
    expected = KMeansOfSklearn(3, n_init=10, tol=0, random_state=1).fit(rows.inputs.numpy())
    centres = sorted(expected.cluster_centers_.tolist())
    assert found.numpy() == pytest.approx(np.array(centres), abs=1e-8)  # by first feature
    assert found[:, 0].tolist() == sorted(found[:, 0].tolist())


def test_a_mixture_without_labels_is_that_of_scikit_learn() -> None:
    """From the same clusters, with the floor of variances as its ``reg_covar``."""
    rows = blobs(apart=2.5)
    learner = qs.GaussianMixture(IDENTITY, steps=2000)
    state = learner(without_labels(rows), qs.clustering(3)).state
    x = rows.inputs.numpy()
    start = KMeansOfSklearn(3, n_init=10, tol=0, random_state=0).fit(x)
    parts = [x[start.labels_ == k] for k in range(3)]
    floor = 0.01 * x.var(0).mean()
    model = MixtureOfSklearn(
        3, covariance_type="diag", reg_covar=floor, tol=1e-12, max_iter=5000,
        weights_init=[len(p) / len(x) for p in parts], means_init=[p.mean(0) for p in parts],
        precisions_init=[1 / (p.var(0) + floor) for p in parts],
    ).fit(x)  # fmt: skip
    order, own = np.argsort(model.means_[:, 0]), np.argsort(state["means"][:, 0].numpy())
    for name, theirs in (
        ("means", model.means_), ("variances", model.covariances_), ("shares", model.weights_),
    ):  # fmt: skip
        assert state[name].numpy()[own] == pytest.approx(theirs[order], rel=1e-4)
    logits = learner.predict(state, rows.inputs, qs.clustering(3))
    density = logits.logsumexp(1).numpy()
    assert density == pytest.approx(model.score_samples(x), rel=1e-4)


def test_with_all_rows_labelled_they_are_the_nearest_mean_and_naive_bayes() -> None:
    rows, spec = blobs(apart=1.0), qs.classification(3)
    near = qs.KMeans(IDENTITY)(rows, spec)(rows.inputs)
    assert torch.allclose(near, qs.Prototypical(IDENTITY)(rows, spec)(rows.inputs))
    found = qs.GaussianMixture(IDENTITY, floor=1e-9)(rows, spec)(rows.inputs).softmax(1)
    expected = GaussianNB(var_smoothing=1e-12).fit(rows.inputs, rows.targets)
    assert found.numpy() == pytest.approx(expected.predict_proba(rows.inputs), abs=1e-6)


@pytest.mark.parametrize("learner", [qs.KMeans(IDENTITY), qs.GaussianMixture(IDENTITY)])
def test_one_labelled_row_a_class_names_the_clusters(learner: Learner) -> None:
    """In ten of ten draws of blobs six deviations apart nearly all rows get the right name, which
    the labelled rows alone do not give."""
    spec, gains = qs.classification(3), []
    for seed in range(10):
        rows = blobs(apart=5.0, seed=seed)
        part = hidden(rows, [0, 1, 2])
        found = learner(part, spec)(rows.inputs).argmax(1)
        right = float((found == rows.targets).double().mean())
        alone = qs.Prototypical(IDENTITY)(part, spec)(rows.inputs).argmax(1)
        gains.append(right - float((alone == rows.targets).double().mean()))
        assert right > 0.9
    assert np.mean(gains) > 0


def test_a_labelled_row_never_leaves_its_class() -> None:
    """Row 0 is nearer to class 1, but its label keeps it: the mean of class 0 is (9 + 0) / 2."""
    rows = examples_of(torch.tensor([[9.0], [0.0], [10.0], [11.0]]), torch.tensor([0, 0, 1, -1]))
    state = qs.KMeans(IDENTITY)(rows, qs.classification(2)).state
    assert state["means"].flatten().tolist() == [4.5, 10.5]


def test_k_means_goes_on_by_weighted_means_until_no_row_moves() -> None:
    """Row 5.9 is nearer to class 1 at first. The heavy row then draws the mean of class 0 to 3.96,
    so that it changes sides in the second step, which it would not do with weights of one."""
    rows = examples_of(torch.tensor([[0.0], [10.0], [4.0], [5.9]]), torch.tensor([0, 1, -1, -1]))
    rows = rows._replace(weights=torch.tensor([1.0, 1.0, 100.0, 1.0]))
    means = qs.KMeans(IDENTITY)(rows, qs.classification(2)).state["means"].flatten().tolist()
    assert means == pytest.approx([(400 + 5.9) / 102, 10.0])


def test_weights_decide_the_clusters_without_labels() -> None:
    """By hand: with weights of one {4, 6} go together, but two heavy rows must not be merged."""
    rows = examples_of(torch.tensor([[0.0], [4.0], [6.0]]), torch.tensor([-1, -1, -1]))
    rows = rows._replace(weights=torch.tensor([1.0, 100.0, 100.0]))
    means = qs.KMeans(IDENTITY)(rows, qs.clustering(2)).state["means"].flatten().tolist()
    assert means == pytest.approx([400 / 101, 6.0])


def test_no_row_joins_a_class_without_labelled_rows() -> None:
    """The mean of such a class is zeros, to which row 1 would be nearest."""
    rows = examples_of(torch.tensor([[5.0], [10.0], [1.0]]), torch.tensor([0, 1, -1]))
    state = qs.KMeans(IDENTITY)(rows, qs.classification(3)).state
    assert state["means"].flatten().tolist()[:2] == [3.0, 10.0]


def test_a_mixture_keeps_the_labels_of_labelled_rows() -> None:
    """By an own EM with labelled rows kept; row 9 would leave class 0 without its label."""
    x = np.array([9.0, 0.0, 1.0, 10.0, 11.0, 2.0, 10.5])
    labels = np.array([0, 0, 0, 1, 1, -1, -1])
    state = qs.GaussianMixture(IDENTITY, floor=0.05, steps=3000)(
        examples_of(torch.from_numpy(x)[:, None], torch.from_numpy(labels)), qs.classification(2)
    ).state
    r = (np.arange(2) == labels[:, None]).astype(float)
    r[5:] = [[1, 0], [0, 1]]  # the clusters of k-means
    for _ in range(3000):
        totals = r.sum(0)
        means = r.T @ x / totals
        variances = (r * (x[:, None] - means) ** 2).sum(0) / totals + 0.05 * x.var()
        log_p = (
            np.log(totals / 7) - np.log(variances) / 2 - (x[:, None] - means) ** 2 / 2 / variances
        )
        p = np.exp(log_p - log_p.max(1, keepdims=True))
        r[5:] = (p / p.sum(1, keepdims=True))[5:]
    assert state["means"].flatten().numpy() == pytest.approx(means, rel=1e-6)
    assert state["variances"].flatten().numpy() == pytest.approx(variances, rel=1e-6)


def test_classes_without_a_labelled_row_are_absent_where_others_have_some() -> None:
    rows = hidden(blobs(), [0, 1])
    for learner in (qs.KMeans(IDENTITY), qs.GaussianMixture(IDENTITY)):
        predictor = learner(rows, qs.classification(3))
        assert predictor.state["present"].tolist() == [True, True, False]
        assert float(predictor(rows.inputs).softmax(1)[:, 2].max()) == 0.0


def test_the_meta_gradient_of_k_means_is_that_of_the_assigned_means() -> None:
    """By finite differences of the whole learner, whose assignments do not change nearby."""
    rows, spec = hidden(blobs(30), [0, 1, 2]), qs.classification(3)
    net = torch.nn.Linear(3, 2, bias=False).double()
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[1.0, 0.2, -0.3], [0.1, 1.0, 0.4]]))

    def loss() -> torch.Tensor:
        logits = qs.KMeans(net)(rows, spec)(blobs(9, seed=1).inputs)
        return torch.nn.functional.cross_entropy(logits, blobs(9, seed=1).targets)

    gradient = torch.autograd.grad(loss(), net.weight)[0]
    with torch.no_grad():
        for place in ((0, 0), (1, 2)):
            ends = []
            for step in (1e-6, -1e-6):
                net.weight[place] += step
                ends.append(float(loss()))
                net.weight[place] -= step
            assert float(gradient[place]) == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-4)


def test_a_row_of_weight_two_is_two_rows_without_labels_too() -> None:
    rows = without_labels(blobs(20))
    weights = torch.ones(20, dtype=torch.float64)
    weights[:5] = 2
    twice = examples_of(
        torch.cat([rows.inputs, rows.inputs[:5]]), torch.cat([rows.targets, rows.targets[:5]])
    )
    for learner in (qs.KMeans(IDENTITY), qs.GaussianMixture(IDENTITY)):
        means = [
            learner(each, qs.clustering(3)).state["means"]
            for each in (rows._replace(weights=weights), twice)
        ]
        assert torch.allclose(*means, atol=1e-8)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: qs.KMeans(IDENTITY, scale=0), "scale must be positive"),
        (lambda: qs.KMeans(IDENTITY, restarts=0), "restarts must be at least 1"),
        (lambda: qs.GaussianMixture(IDENTITY, floor=0), "floor must be positive"),
        (lambda: qs.GaussianMixture(IDENTITY, steps=0), "steps must be at least 1"),
        (
            lambda: qs.KMeans(IDENTITY)(qs.examples(torch.ones(5, 2), [-1] * 5), qs.clustering(2)),
            "needs 2 different rows for 2 clusters; found 1",
        ),
    ],
)
def test_what_has_no_clusters_is_refused(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]
