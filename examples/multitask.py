"""Learning many tasks together: whom does it help, and whom does it hurt?

Made-up schools in two groups; schools of a group are nearly alike, and two more teach what is wrong
for all others. One network is shared by all, with a head for each school; beside it, every school
has a network of its own. The judgement compares them school by school, on pupils that neither has
seen.
"""

import torch

import quickstudy as qs


def main(steps: int = 400) -> tuple[qs.Evaluation, qs.Evaluation]:
    made = qs.tasks.related(14, clusters=2, noise=0.5, harmful=2, rows=120)
    train, test = made.tasks.split_rows(0.25)
    source = train.batches(rows=8)  # a random school, then some of its pupils

    results = []
    for kind in (qs.HardSharing, qs.SingleTask):
        torch.manual_seed(0)  # of the network's first weights
        learner = kind(qs.backbones.MLP(20, hidden=(32,)), train.outputs)
        qs.fit(learner, source, steps, tasks_per_step=16, progress=False)
        results.append(qs.evaluate(learner, train.tested_on(test)))

    shared, alone = results
    print(qs.judge_multitask(shared, alone, name="HardSharing", tried=(1, 1)))
    return shared, alone


if __name__ == "__main__":
    main()
