import pickle
import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import quickstudy as qs
from quickstudy.files.registry import LEARNERS, resolve
from quickstudy.interfaces.named_learner import READY


@parametrize_with_checks([qs.FewShotClassifier(), qs.FewShotRegressor()])
def test_the_checks_of_scikit_learn_pass(estimator, check):
    check(estimator)


def test_the_baseline_is_logistic_regression():
    X, y = load_iris(return_X_y=True)
    ours = qs.FewShotClassifier().fit(X, y)
    theirs = LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000).fit(X, y)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-5)
    assert cross_val_score(qs.FewShotClassifier(), X, y).mean() > 0.95


def test_labels_of_any_type_and_images():
    images = np.random.default_rng(0).integers(0, 256, (6, 1, 16, 16), dtype=np.uint8)
    labels = np.array(["owl", "jay", "owl", "jay", "wren", "wren"])
    learner = qs.Prototypical(qs.backbones.Conv4(channels=8, image_size=16))
    model = qs.FewShotClassifier(learner).fit(images, labels)
    assert list(model.classes_) == ["jay", "owl", "wren"]
    assert set(model.predict(images)) <= set(labels)
    direct = learner(qs.examples(images, [1, 0, 1, 0, 2, 2]), qs.classification(3))
    expected = direct(torch.from_numpy(images) / 255).softmax(-1).detach()
    np.testing.assert_allclose(model.predict_proba(images), expected, rtol=1e-4)


ANSWERS = {
    name: {kind.__name__ for kind in resolve("learner", name, LEARNERS).answers}
    for name in LEARNERS
}
"""The kinds of answer that each learner gives by default."""


@pytest.mark.parametrize("name", LEARNERS)
@pytest.mark.parametrize("estimator", [qs.FewShotClassifier, qs.FewShotRegressor])
def test_every_learner_by_name_fits_or_says_why_not(estimator, name):
    """A warning names others to use, and these work for the same task without a warning."""
    random = np.random.default_rng(0)
    X, y = random.random((6, 4)), np.array([0, 1, 2, 0, 1, 2])
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            model = estimator(name).fit(X, y)
        except ValueError as error:
            needed = "Classes" if estimator is qs.FewShotClassifier else "Reals"
            if f"needs {needed}" in str(error) and needed not in ANSWERS[name]:
                return
            raise
    assert np.isfinite(model.predict(X)).all()
    assert bool(told) == (name not in READY)
    if told:
        message = str(told[0].message)
        for other in message.rpartition("use ")[2].removeprefix("one of ").strip(".").split(", "):
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                estimator(other).fit(X, y)


def test_an_estimator_by_name_is_cloned_searched_and_pickled():
    X, y = load_iris(return_X_y=True)
    search = GridSearchCV(
        make_pipeline(StandardScaler(), qs.FewShotClassifier("prototypical")),
        {"fewshotclassifier__learner": ["prototypical", "matching"]},
        cv=2,
    ).fit(X, y)
    assert search.best_score_ > 0.8
    assert (pickle.loads(pickle.dumps(search)).predict(X) == search.predict(X)).all()
    assert clone(search.best_estimator_[1]).learner == search.best_params_.popitem()[1]


def test_the_learner_is_not_changed():
    learner = qs.MAML(qs.backbones.MLP(4, outputs=3), rate=0.1)
    before = {k: v.clone() for k, v in learner.state_dict().items()}
    X, y = load_iris(return_X_y=True)
    qs.FewShotClassifier(learner).fit(X, y)
    assert all(v.equal(before[k]) for k, v in learner.state_dict().items())
    assert learner.training


def test_one_class_is_refused():
    with pytest.raises(ValueError, match="found 1 class"):
        qs.FewShotClassifier().fit(np.zeros((3, 2)), [1, 1, 1])


def test_pixels_and_other_numbers_are_not_mixed():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 5), dtype=np.uint8)
    y = [0, 1] * 4
    fitted = qs.FewShotClassifier().fit(pixels, y)
    with pytest.raises(ValueError, match=r"fitted to uint8 pixels, but X is now int64.*same type"):
        fitted.predict(pixels.astype(np.int64))
    with pytest.raises(ValueError, match="but X is now uint8"):
        qs.FewShotClassifier().fit(pixels.astype(np.int64), y).predict(pixels)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_learner_on_a_gpu():
    X, y = load_iris(return_X_y=True)
    learner = qs.Prototypical(qs.backbones.MLP(4)).cuda()
    assert qs.FewShotClassifier(learner).fit(X, y).predict_proba(X).shape == (150, 3)


@pytest.mark.parametrize("labels", [[[0, 1], [2]], ["a", ["b", "c"]], (torch.zeros(2), 1)])
def test_rows_of_several_labels_are_refused(labels):
    with pytest.raises(ValueError, match="labels must be one for each row; found rows of several"):
        qs.FewShotClassifier().fit(np.eye(2), labels)
