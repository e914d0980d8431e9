"""Multi-task learning is judged by figures that are recomputed here from single predictions."""

from __future__ import annotations

import json
import math
import warnings
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor

import quickstudy as qs
from quickstudy.answers.labels import AveragePrecision, Labels, RocAuc
from quickstudy.evaluation.holm import clustered_half_width, holm, paired_p
from quickstudy.evaluation.judgement import Judgement
from quickstudy.evaluation.over_rows import Inputs, over_rows
from quickstudy.evaluation.own_units import in_own_unit


class Given(qs.Learner):
    """Predicts ``inputs @ weights[name]``, whatever the support set; classes as logits 0 and it."""

    reads_name = True

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self.given = weights
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def adapt(self, support: qs.Examples, spec: qs.TaskSpec) -> dict[str, Tensor]:
        return {}

    def predict(self, state: Any, inputs: Tensor, spec: qs.TaskSpec) -> Tensor:
        found = inputs @ self.given[spec.name]
        if spec.answer.kind == "classes":
            return torch.cat([torch.zeros_like(found), found], 1)
        return found


def made(names: str = "abc", n: int = 40, seed: int = 0, shared: bool = False) -> Any:
    """Named tasks with targets x @ w + noise, the true weights, and both parts of the rows."""
    generator = torch.Generator().manual_seed(seed)
    weights, tasks, x = {}, {}, torch.randn(2 * n, 3, generator=generator)
    for name in names:
        w = torch.randn(3, 1, generator=generator)
        x = x if shared else torch.randn(2 * n, 3, generator=generator)
        y = x @ w + 0.5 * torch.randn(2 * n, 1, generator=generator)
        weights[name], tasks[name] = w, (x, y, qs.regression())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # one task has nothing to share
        train, test = qs.tasks.domains(tasks).split_rows(0.5)
    return weights, train, test


def judged(multi: Tensor | dict[str, Tensor], single: Any, tasks: Any, **words: Any) -> Judgement:
    return qs.judge_multitask(Given(multi), Given(single), tasks, **words)


def errors(weights: dict[str, Tensor], test: Any, name: str) -> np.ndarray:
    rows = test[name]
    return ((rows.inputs @ weights[name] - rows.targets) ** 2)[:, 0].double().numpy()


def test_delta_m_and_each_gain_follow_from_the_squared_errors() -> None:
    """With the interval of each gain from scores without each row in turn (the jackknife)."""
    true, train, test = made()
    off = {name: w + 0.3 for name, w in true.items()}
    found = judged(true, off, train.tested_on(test))
    gains = []
    for row in found.table:
        m, s = errors(true, test, row.name), errors(off, test, row.name)
        gains.append((s.mean() - m.mean()) / s.mean())
        assert row.multi == pytest.approx(m.mean(), rel=1e-5)
        assert row.multi_half_width == pytest.approx(
            stats.t.ppf(0.975, len(m) - 1) * stats.sem(m), rel=1e-4
        )
        n = len(m)
        without = [1 - np.delete(m, i).mean() / np.delete(s, i).mean() for i in range(n)]
        pseudo = n * gains[-1] - (n - 1) * np.array(without)
        width = stats.t.ppf(0.975, n - 1) * pseudo.std(ddof=1) / n**0.5
        assert row.gain == pytest.approx(gains[-1], rel=1e-4)
        assert row.gain_half_width == pytest.approx(width, rel=1e-3)
        assert row.difference == pytest.approx(s.mean() - m.mean(), rel=1e-4)
    assert found.delta_m == pytest.approx(np.mean(gains), rel=1e-4)
    assert found.half_width_over_tasks == pytest.approx(
        stats.t.ppf(0.975, 2) * stats.sem(gains), rel=1e-3
    )
    worst = min(zip(gains, found.table, strict=True), key=lambda pair: pair[0])[1]
    assert found.worst == worst
    assert [row.gain for row in found.by_gain] == sorted(
        (r.gain for r in found.table), reverse=True
    )


def test_p_values_are_those_of_the_paired_t_test_with_holms_correction() -> None:
    true, train, test = made()
    off = {name: w + torch.tensor([[0.0], [0.1], [0.1]]) for name, w in true.items()}
    found = judged(true, off, train.tested_on(test))
    p = [stats.ttest_rel(errors(true, test, n), errors(off, test, n)).pvalue for n in "abc"]
    assert [row.p for row in found.table] == pytest.approx(closed_testing(p), rel=1e-3)


def closed_testing(p: list[float]) -> list[float]:
    """Holm's procedure as a closed test: a task is rejected where each set with it is, by
    Bonferroni."""
    sets = [s for k in range(1, len(p) + 1) for s in combinations(range(len(p)), k)]
    return [
        max(min(1.0, len(s) * min(p[i] for i in s)) for s in sets if task in s)
        for task in range(len(p))
    ]


def test_holm_is_the_closed_test_with_bonferroni() -> None:
    generator = np.random.default_rng(0)
    for _ in range(50):
        p = (generator.random(5) ** 3).tolist()
        assert holm(p) == pytest.approx(closed_testing(p))
    assert holm([0.01, math.nan, 0.03])[::2] == pytest.approx([0.02, 0.03])
    assert math.isnan(holm([math.nan])[0])


def test_a_few_rows_that_all_agree_are_no_proof() -> None:
    """Five rows that are all better: the exact test by signs has p = 2 / 2^5, not 0."""
    assert paired_p(torch.ones(5).double()) == pytest.approx(2 / 2**5)
    assert paired_p(torch.zeros(9).double()) == 1.0
    assert math.isnan(paired_p(torch.ones(1).double()))
    values = torch.randn(30, generator=torch.Generator().manual_seed(0)).double() + 0.3
    assert paired_p(values) == pytest.approx(stats.ttest_1samp(values.numpy(), 0).pvalue)


@pytest.mark.parametrize(
    ("score", "reference"),
    [(RocAuc(), roc_auc_score), (AveragePrecision(), average_precision_score)],
)
def test_pseudo_values_of_pairs_are_those_of_leaving_each_row_out(
    score: Any, reference: Any
) -> None:
    """With ties, and an unknown label and a row without weight, which are left out."""
    generator = torch.Generator().manual_seed(1)
    predictions = torch.randint(4, (14, 1), generator=generator).double()
    targets = torch.randint(2, (14, 1), generator=generator).double()
    targets[3] = torch.nan
    rows = qs.examples(torch.arange(14.0)[:, None], targets)
    rows.weights[5] = 0.0
    kept = [i for i in range(14) if i not in (3, 5)]
    found = over_rows(score, predictions, rows, Labels(1), torch.arange(14))
    p, y = predictions[kept, 0].numpy(), targets[kept, 0].numpy()
    whole, n = reference(y, p), len(kept)
    expected = [n * whole - (n - 1) * reference(np.delete(y, i), np.delete(p, i)) for i in range(n)]
    assert found.values.tolist() == pytest.approx(expected)
    assert found.inputs.tolist() == kept


def test_the_roc_auc_without_its_only_positive_row_has_no_interval() -> None:
    rows = qs.examples(torch.zeros(5, 1), torch.tensor([[1.0], [0.0], [0.0], [0.0], [0.0]]))
    found = over_rows(RocAuc(), torch.arange(5.0)[:, None], rows, Labels(1), torch.arange(5))
    assert found.values.isnan().tolist() == [True, False, False, False, False]
    assert found.half_width == math.inf


def test_tasks_that_share_their_rows_do_not_narrow_the_interval() -> None:
    """Two tasks of the same rows and targets say as much as one; of other rows, √2 as much."""
    true, train, test = made("a")
    off = {"a": true["a"] + 0.3}
    one = judged(true, off, train.tested_on(test))
    rows = (test["a"], test.specs["a"])
    twice = qs.tasks.domains({"a": rows, "b": (rows[0], qs.regression())})
    both = judged(
        {"a": true["a"], "b": true["a"]}, {"a": off["a"], "b": off["a"]}, twice.tested_on(twice)
    )
    assert both.delta_m == pytest.approx(one.delta_m)
    assert both.half_width == pytest.approx(one.half_width)
    values = torch.randn(2, 4000, generator=torch.Generator().manual_seed(0)).double()
    alone = clustered_half_width([values[0]], [None])
    apart = clustered_half_width([values[0], values[0]], [None, None])
    assert apart == pytest.approx(alone / 2**0.5, rel=1e-3)


def test_the_interval_of_two_tasks_is_welchs() -> None:
    """With pooled degrees of freedom, a small task that varies much would have 82% coverage."""
    generator = torch.Generator().manual_seed(0)
    small, large = (
        scale * torch.randn(n, generator=generator).double() for n, scale in ((4, 10.0), (90, 1.0))
    )
    welch = stats.ttest_ind(small.numpy(), -large.numpy(), equal_var=False).confidence_interval()
    found = clustered_half_width([small, large], [None, None])
    assert found == pytest.approx((welch.high - welch.low) / 4)
    assert clustered_half_width([torch.ones(5), torch.zeros(5)], [None, None]) == 0.0


def test_rows_of_one_task_with_equal_inputs_are_different_rows() -> None:
    """Two pupils of a school who answer alike; in another task of the table, each is himself."""
    values = torch.randn(40, generator=torch.Generator().manual_seed(0)).double()
    twice = torch.arange(20).repeat(2)
    student = stats.t.ppf(0.975, 39) * stats.sem(values.numpy())
    assert clustered_half_width([values], [twice]) == pytest.approx(student)
    assert clustered_half_width([values, values], [twice, twice]) == pytest.approx(student)


def test_equal_inputs_have_equal_numbers() -> None:
    numbers = Inputs()
    tree = {"ids": torch.tensor([[1, 2], [1, 3], [1, 2]]), "mask": torch.ones(3)}
    assert numbers.number(tree).tolist() == [0, 1, 0]
    assert numbers.number(torch.zeros(1, 2)).tolist() == [2]


def test_standardised_targets_are_scored_in_their_own_unit() -> None:
    true, train, test = made("ab")
    scaled = train.standardised()
    tasks = scaled.tested_on(test.standardised(scaled))
    found = qs.evaluate(Given(true), tasks)
    for name in "ab":
        shift, scale = scaled.scales[name]
        rows = test[name]
        predictions = scale * (rows.inputs @ true[name]) + shift
        expected = float(((predictions - rows.targets) ** 2).mean())
        assert found.row(name).mean == pytest.approx(expected, rel=1e-4)
        guess = float(((train[name].targets.mean() - rows.targets) ** 2).mean())
        assert found.row(name).baselines[0].mean == pytest.approx(guess, rel=1e-4)
        given = next(task for task in tasks.tasks if task.spec.name == name)
        both = in_own_unit(tasks, name, given.query.targets, given.query)
        for own in (both[0], both[1].targets):  # squared errors do not see a wrong shift of both
            torch.testing.assert_close(own, rows.targets)
    with pytest.raises(ValueError, match="must be standardised alike; found 2 tasks"):
        scaled.tested_on(test)


def test_one_given_task_is_scored_over_its_rows_and_survives_json() -> None:
    true, train, test = made("a")
    found = qs.evaluate(Given(true), train.tested_on(test))
    assert "(95% CI, 40 rows of 1 task" in str(found)
    assert found.main.baselines[0].verdict == "better"
    again = qs.Evaluation.from_json(json.loads(json.dumps(found.to_json(), allow_nan=False)))
    assert again.main.half_width == pytest.approx(found.main.half_width)
    assert again.main.rows is not None
    torch.testing.assert_close(again.main.rows.inputs, found.main.rows.inputs)
    alone = qs.judge_multitask(again, found)
    assert alone.advice == "Train alone: there is one task, so nothing is shared."


def test_several_tasks_of_a_name_are_compared_over_tasks() -> None:
    true, _, test = made("a")
    off = {"a": true["a"] + 0.3}
    parts = [
        qs.Task(test["a"], qs.examples(test["a"].inputs[i::4], test["a"].targets[i::4]),
                test.specs["a"]) for i in range(4)
    ]  # fmt: skip
    (row,) = judged(true, off, qs.tasks.fixed(parts)).table
    m, s = (np.array([errors(w, test, "a")[i::4].mean() for i in range(4)]) for w in (true, off))
    assert (row.counted, str(row.over)) == (4, "tasks")
    assert row.p == pytest.approx(max(stats.ttest_rel(m, s).pvalue, 2 / 2**4), rel=1e-3)


def test_gains_and_harm_are_told_apart_and_said() -> None:
    true, train, test = made("abcd", 200)
    bad = {name: w + 1.0 for name, w in true.items()}
    multi = {"a": true["a"], "b": true["b"], "c": bad["c"], "d": true["d"]}
    single = {"a": bad["a"], "b": bad["b"], "c": true["c"], "d": true["d"]}
    tasks = train.tested_on(test)
    found = judged(multi, single, tasks, name="mixed", tried=(8, 8))
    assert (found.gaining, found.hurt) == (("a", "b"), ("c",))
    assert [row.verdict for row in found.table] == ["gains", "gains", "hurt", "neither shown"]
    assert found.advice == "2 of 4 tasks gain, but 1 is hurt: train c alone."
    assert "worst task: c" in str(found)
    assert "8 settings tried for each" in str(found)
    assert "UNEQUAL tuning: 9 settings tried for m, 1 for single tasks" in str(
        judged(multi, single, tasks, name="m", tried=(9, 1))
    )
    assert "tuning budgets not stated" in str(judged(multi, single, tasks))
    assert judged(bad, true, tasks).advice.startswith("Train alone: no task gains, and 4 are hurt")
    assert judged(true, true, tasks).advice == "Train alone: no task is shown to gain."
    assert judged(true, bad, tasks).advice.startswith("Train together: 4 of 4 tasks gain")
    saved = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert saved["hurt"] == ["c"]
    assert [row["verdict"] for row in saved["table"]][2] == "hurt"


def test_undefined_scores_are_named_and_counted_and_left_out() -> None:
    """ROC-AUC of one class; and an accuracy of 0 alone, which has no relative gain."""
    x = torch.tensor([[-2.0], [-1.0], [1.0], [2.0]])
    y = (x > 0).float()
    ones = torch.ones(4, 1)
    with pytest.warns(UserWarning, match="one class only"):
        tasks = qs.tasks.domains({
            "both": (x, y, qs.multilabel(1)), "yes": (x, ones, qs.multilabel(1)),
            "class": (x, y[:, 0].long(), qs.classification(2)),
        })  # fmt: skip
    with pytest.warns(UserWarning, match="one class only"):
        given = tasks.tested_on(tasks)
    right = {name: torch.ones(1, 1) for name in tasks}
    found = judged(right, right | {"class": -torch.ones(1, 1)}, given)
    assert found.unscored == ("yes",)
    assert found.without_gain == ("class",)
    assert found.delta_m == 0.0  # of "both" alone
    text = str(found)
    assert (
        "no score: 1 task, left out of Δm: yes (ROC-AUC is undefined: all known labels are yes)"
        in text
    )
    assert "no relative gain: 1 task, whose single score is 0, left out of Δm: class" in text
    json.dumps(found.to_json(), allow_nan=False)


def test_a_gain_is_positive_for_high_and_for_low_scores() -> None:
    x = torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
    y = (x[:, :1] > 0).float()
    tasks = qs.tasks.domains({"label": (x, y, qs.multilabel(1)), "real": (x, y, qs.regression())})
    good, poor = torch.tensor([[1.0], [0.0]]), torch.tensor([[0.3], [1.0]])
    found = judged(dict.fromkeys(tasks, good), dict.fromkeys(tasks, poor), tasks.tested_on(tasks))
    assert [row.higher_is_better for row in found.table] == [True, False]
    assert all(row.gain > 0 and row.difference > 0 for row in found.table)
    assert found.lowest is None  # scores of two kinds have no lowest
    assert [mean.score for mean in found.means] == ["ROC-AUC", "mse"]


def test_runs_with_other_seeds_have_an_interval_over_runs() -> None:
    true, train, test = made("ab")
    tasks, runs = train.tested_on(test), []
    for seed in range(3):
        off = {name: w + 0.1 * (seed + 1) for name, w in true.items()}
        runs.append(judged(true, off, tasks))
    found = qs.judge_runs(runs)
    deltas = [run.delta_m for run in runs]
    assert found.delta_m == pytest.approx(np.mean(deltas))
    assert found.half_width == pytest.approx(stats.t.ppf(0.975, 2) * stats.sem(deltas))
    gains = np.array([[row.gain for row in run.table] for run in runs])
    assert found.gains == pytest.approx(gains.mean(0))
    assert found.worst[0] == "ab"[int(gains.mean(0).argmin())]
    assert len(json.loads(json.dumps(found.to_json()))["runs"]) == 3
    assert "95% interval over 3 runs" in str(found)
    other = judged(true, true, test.tested_on(train))
    for few in (runs[:1], [runs[0], other]):
        with pytest.raises(ValueError, match="at least 2 judgements of one learner on the same"):
            qs.judge_runs(few)
    with pytest.raises(ValueError, match="needs results of judge_multitask; found int"):
        qs.judge_runs([1, 2])  # type: ignore[list-item]


def test_what_cannot_be_judged_is_refused() -> None:
    true, train, test = made("ab")
    tasks = train.tested_on(test)
    one = qs.evaluate(Given(true), tasks, baselines=False)
    other = qs.evaluate(Given(true), test.tested_on(train), baselines=False)
    with pytest.raises(ValueError, match="scored on the same tasks; found tasks of the finger"):
        qs.judge_multitask(one, other)
    with pytest.raises(ValueError, match="learners need tasks to be judged on"):
        qs.judge_multitask(one, Given(true))
    with pytest.raises(
        ValueError, match=r"compares evaluations, or learners; found str\. Give what"
    ):
        qs.judge_multitask("single", one)  # type: ignore[arg-type]
    for wrong in (3, (1,), (0, 1), (1.0, 1)):
        with pytest.raises(ValueError, match=r"tried must be the numbers .* or leave it out"):
            qs.judge_multitask(one, one, tried=wrong)  # type: ignore[arg-type]
    unnamed = qs.tasks.fixed([t._replace(spec=qs.regression()) for t in tasks.tasks])
    plain = qs.evaluate(Given({"": true["a"]}), unnamed, baselines=False)
    with pytest.raises(ValueError, match="every task needs a name"):
        qs.judge_multitask(plain, plain)


def test_the_pooled_network_stands_beside_both() -> None:
    true, train, test = made("ab", 200)
    off, bad = ({name: w + by for name, w in true.items()} for by in (0.3, 1.0))
    tasks = train.tested_on(test)
    found = judged(true, off, tasks, pooled=Given(bad))
    alone = judged(bad, off, tasks)
    assert found.pooled is not None
    assert found.pooled.delta_m == pytest.approx(alone.delta_m)
    line = f"one network for the rows of all tasks (pooled): Δm {alone.figure}, 2 of 2 tasks hurt"
    assert line in str(found)
    assert "no pooled baseline" in str(alone)
    assert json.loads(json.dumps(found.to_json()))["pooled"]["hurt"] == ["a", "b"]


def test_no_task_with_a_score_gives_no_advice() -> None:
    x, ones = torch.arange(8.0)[:, None], torch.ones(8, 1)
    with pytest.warns(UserWarning, match="one class only"):
        tasks = qs.tasks.domains({n: (x, ones, qs.multilabel(1)) for n in "ab"})
    with pytest.warns(UserWarning, match="one class only"):
        given = tasks.tested_on(tasks)
    right = dict.fromkeys(tasks, torch.ones(1, 1))
    found = judged(right, right, given)
    assert (found.figure, found.worst, found.unscored) == ("–", None, ("a", "b"))
    assert found.advice.startswith("No advice: no task has a score")


def test_tasks_with_too_few_rows_for_an_interval_are_named() -> None:
    true, train, test = made("ab")
    one = qs.Task(train["a"], qs.examples(test["a"].inputs[:1], test["a"].targets[:1]),
                  test.specs["a"])  # fmt: skip
    found = judged(
        true, true, qs.tasks.fixed([one, *train.only(["b"]).tested_on(test.only(["b"])).tasks])
    )
    assert found.half_width == math.inf
    assert "no interval: 1 task with too few rows: a" in str(found)
