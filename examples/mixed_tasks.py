"""Three kinds of tasks in one training step: classes, real numbers, and labels partly unknown.

One network gives the features; a linear head is fitted to each task's support set. Each kind has a
separate result: a mean over kinds would be meaningless.
"""

import torch

import quickstudy as qs

ROWS, SUPPORT = 24, 12


def mixed(generator: torch.Generator) -> qs.Task:
    """A task of one of three kinds, all about the length of points in the plane."""
    kind = int(torch.randint(3, (), generator=generator))
    points = torch.randn(ROWS, 2, generator=generator)
    length = points.norm(dim=1) * (0.5 + torch.rand((), generator=generator))
    if kind == 0:  # which of three rings?
        targets, spec = torch.bucketize(length, torch.tensor([0.8, 1.5])), qs.classification(3)
    elif kind == 1:  # how far?
        targets, spec = length[:, None], qs.regression()
    else:  # far? right of the middle? One label in four is unknown.
        targets = torch.stack([length > 1, points[:, 0] > 0], 1).float()
        targets[torch.rand(ROWS, 2, generator=generator) < 0.25] = torch.nan
        spec = qs.multilabel(2)
    name = ("rings", "lengths", "questions")[kind]
    support, query = (
        qs.examples(points[rows], targets[rows]) for rows in (slice(SUPPORT), slice(SUPPORT, ROWS))
    )
    return qs.Task(support, query, qs.TaskSpec(spec.answer, name))


def main(steps: int = 400, tasks: int = 300) -> qs.Evaluation:
    torch.manual_seed(0)  # of the network's first weights
    learner = qs.LinearProbe(qs.backbones.MLP(2, hidden=(32, 32)), l2=0.1)
    before = qs.evaluate(learner, mixed, tasks)
    qs.fit(
        learner, mixed, steps, tasks_per_step=16,
        validation=qs.Validation(mixed, every=200, tasks=60, select=("rings", "accuracy")),
    )  # fmt: skip
    after = qs.evaluate(learner, mixed, tasks)
    for old, new in zip(before.rows, after.rows, strict=True):
        print(f"{new.label}: {old.figure} before, {new.figure} after")
    return after


if __name__ == "__main__":
    main()
