"""Episodes whose classes all come from one superclass."""

from collections import Counter

import pytest
import torch

import quickstudy as qs
from quickstudy.tasks.numbering import draw, draw_stacks, generator, task_seed
from quickstudy.tasks.stacks import unstack

SIZES = {"Greek": 4, "Latin": 8, "Tiny": 2}


@pytest.fixture
def split():
    """Classes of three alphabets, mixed; each row's first pixel is the number of its class."""
    superclasses = [name for name, size in SIZES.items() for _ in range(size)]
    superclasses = superclasses[::2] + superclasses[1::2]
    ids = torch.arange(len(superclasses))
    inputs = ids.repeat_interleave(3).float()[:, None, None, None].expand(-1, 1, 4, 4)
    names = tuple(f"{s}/{i}" for i, s in enumerate(superclasses))
    return qs.LabelledRows(inputs.clone(), torch.full((len(ids),), 3), names, tuple(superclasses))


def test_tasks_have_classes_of_one_superclass_and_every_class_as_often(split):
    source = qs.episodes(split, ways=2, shots=1, queries=1, within=split.superclasses)
    classes, labels = Counter(), Counter()
    for i in range(1400):
        names = source.names(generator(task_seed(0, i)))
        (label,) = {name.split("/")[0] for name in names}
        assert len(set(names)) == 2
        classes.update(names)
        labels[label] += 1
    assert all(abs(n - 200) < 5 * 200**0.5 for n in classes.values())
    assert all(abs(labels[s] - 100 * n) < 5 * (100 * n) ** 0.5 for s, n in SIZES.items())


def test_one_label_for_all_classes_is_no_limit(split):
    """Classes are then drawn from all, each pair of them in some task."""
    source = qs.episodes(split, 2, 1, 1, within=["all"] * len(split))
    pairs = {frozenset(source.names(generator(i))) for i in range(2000)}
    assert len(pairs) == 14 * 13 // 2


def test_drawing_stacks_gives_the_same_tasks(split):
    source = qs.episodes(split, 2, 1, 2, within=split.superclasses)
    (stack,) = draw_stacks(source, 3, range(5))
    for i, task in enumerate(unstack(stack.task)):
        assert torch.equal(task.query.inputs, draw(source, 3, i).query.inputs)


def test_ranges_of_ways_take_superclasses_that_are_large_enough(split):
    with pytest.warns(UserWarning, match="1 of 3 labels have fewer than 3 classes.*Tiny"):
        source = qs.episodes(split, (3, 6), 1, 1, within=split.superclasses)
    found = Counter()
    for i in range(300):
        names = source.names(generator(i))
        (label,) = {name.split("/")[0] for name in names}
        found[label, len(names)] += 1
    assert {label for label, ways in found if ways > 4} == {"Latin"}
    assert {label for label, ways in found if ways <= 4} == {"Greek", "Latin"}


def test_superclasses_stay_with_their_classes(split):
    chosen = split.select([3, 0])
    assert chosen.superclasses == tuple(n.split("/")[0] for n in chosen.names)
    assert split.to("cpu").superclasses == split.superclasses
    turned = split.with_rotations()
    assert len(set(turned.superclasses)) == 4 * len(SIZES)
    for name, superclass in zip(turned.names, turned.superclasses, strict=True):
        assert superclass == f"{name.split('/')[0]}/{name.split('/')[-1]}"


def test_impossible_requests_are_refused(split):
    with pytest.raises(ValueError, match="9 ways asked within one label, but the largest has 8"):
        qs.episodes(split, 9, 1, 1, within=split.superclasses)
    with pytest.raises(ValueError, match=r"one label for each of the 14 classes.*found 3"):
        qs.episodes(split, 2, 1, 1, within=["a", "b", "c"])
    with pytest.raises(ValueError, match="found 'alphabetically'"):
        qs.episodes(split, 2, 1, 1, within="alphabetically")
    with pytest.raises(ValueError, match="2 superclasses were given for 14 classes"):
        qs.LabelledRows(split.inputs, split.counts, split.names, ("a", "b"))
