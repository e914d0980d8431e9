"""Which learner for these tasks, and is meta-learning needed at all?

Three learners are trained on the same tasks, twice each, and tested on the same tasks, beside
chance, the nearest mean of the raw inputs, an untrained network and a head on the raw rows alone.
"""

import quickstudy as qs


def main(steps: int = 60, tasks: int = 100) -> qs.Comparisons:
    glyphs = qs.datasets.load("glyphs")
    train = qs.episodes(glyphs.train, ways=5, shots=1, queries=5)
    test = qs.episodes(glyphs.test, ways=5, shots=1, queries=15)

    found = qs.compare(
        {
            "prototypical": lambda: qs.Prototypical(qs.backbones.Conv4(16)),
            "ridge": lambda: qs.R2D2(qs.backbones.Conv4(16)),
            "first-order MAML": lambda: qs.MAML(
                qs.backbones.Conv4(16, outputs=5), meta_gradient=qs.meta_gradients.FirstOrder()
            ),
        },
        train,
        test,
        budget=steps,  # or qs.Minutes(1): the same CPU time for each training
        seeds=2,  # from 3 on there is an interval over other trainings
        tasks=tasks,
        progress=False,
    )
    print(found)
    return found


if __name__ == "__main__":
    main()
