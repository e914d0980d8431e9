"""Name what is certain, say "not sure" otherwise, and notice what is none of the known classes."""

import torch

import quickstudy as qs


def main(steps: int = 1000, tasks: int = 100) -> tuple[float, float, float]:
    data = qs.datasets.load("glyphs")
    learner = qs.Prototypical(qs.backbones.Conv4(channels=16))
    qs.fit(learner, qs.episodes(data.train, ways=10, shots=1, queries=5), steps, progress=False)

    # Measured once, on classes that training has not seen.
    calibration = qs.calibrate(learner, qs.episodes(data.val, ways=5, shots=1, queries=5), tasks)

    source, found = qs.episodes(data.test, ways=10, shots=1, queries=5), []
    for number in range(tasks):
        support, query, _ = qs.tasks.draw(source, 0, number)
        known = support.targets < 5  # the other five characters are shown to nobody
        spec = qs.classification(ways=5)
        predictor = learner(qs.examples(support.inputs[known], support.targets[known]), spec)
        said = qs.abstain(predictor, query.inputs, 0.9, calibration, false_alarms=0.05)
        of_known = query.targets < 5
        right = (said == query.targets)[of_known].float().mean()
        wrong = ((said != query.targets) & (said >= 0))[of_known].float().mean()
        unnoticed = (said >= 0)[~of_known].float().mean()
        found.append(torch.stack([right, wrong, unnoticed]))
    right, wrong, unnoticed = torch.stack(found).mean(0).tolist()
    print(f"known characters: {right:.1%} right, {wrong:.1%} wrong, the others not sure")
    print(f"strangers taken for a known character: {unnoticed:.1%}")
    return right, wrong, unnoticed


if __name__ == "__main__":
    main()
