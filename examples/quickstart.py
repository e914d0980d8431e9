"""Train a prototypical network on printed characters and test it on scripts it has never seen."""

import quickstudy as qs


def main(steps: int = 800, tasks: int = 600) -> qs.Evaluation:
    glyphs = qs.datasets.load("glyphs")
    train = qs.episodes(glyphs.train, ways=20, shots=1, queries=5)
    test = qs.episodes(glyphs.test, ways=5, shots=1, queries=15)

    learner = qs.Prototypical(qs.backbones.Conv4())
    qs.fit(learner, train, steps=steps, tasks_per_step=1)
    result = qs.evaluate(learner, test, tasks=tasks)
    print(result)
    return result


if __name__ == "__main__":
    main()
