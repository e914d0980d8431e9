"""Tasks of pictures with masks: what is drawn, and what is refused."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from quickstudy.tasks.masks import MaskedPictures, ObjectTasks, mask_tasks
from quickstudy.tasks.numbering import generator


def numbered(n: int = 7) -> MaskedPictures:
    """Each picture has its own grey, and masks of two halves."""
    pictures = torch.arange(n, dtype=torch.uint8).reshape(-1, 1, 1, 1).expand(n, 3, 4, 4)
    masks = torch.tensor([0, 0, 1, 1]).expand(n, 4, 4)
    return MaskedPictures(pictures, masks, ("left", "right"))


def test_support_and_queries_are_different_pictures() -> None:
    source = mask_tasks(numbered(), shots=3, queries=4)
    for i in range(5):
        task = source(generator(i))
        both = torch.cat([task.support.inputs, task.query.inputs])[:, 0, 0, 0] * 255
        assert sorted(both.round().tolist()) == list(range(7))
        assert (task.support.targets == torch.tensor([0, 0, 1, 1])).all()


def objects() -> SimpleNamespace:
    """Pictures of two objects each: 4 classes in 3 styles; the grey of an object says both."""
    both = [(c, s) for c in range(4) for s in range(3)]
    pairs = list(zip(both, both[6:] + both[:6], strict=True))
    pictures = torch.zeros(len(pairs), 3, 4, 4, dtype=torch.uint8)
    places = torch.zeros(len(pairs), 4, 4, dtype=torch.uint8)
    rows = []
    for i, pair in enumerate(pairs):
        for number, (own, style) in enumerate(pair, 1):
            columns = slice(0, 2) if number == 1 else slice(3, 4)
            places[i, :, columns] = number
            pictures[i, :, :, columns] = 10 * own + style + 1
            rows.append((i, number, own, style))
    return SimpleNamespace(
        pictures=pictures, places=places, objects=torch.tensor(rows), names=tuple("abcd")
    )


def test_queries_show_the_class_in_a_style_that_the_support_has_not() -> None:
    source, seen = ObjectTasks(objects(), shots=(1, 4), queries=2), set()
    for i in range(40):
        task = source(generator(i))
        greys = []
        for rows in (task.support, task.query):
            shown = (rows.inputs[:, 0] * 255).round().long() - 1
            of_each = [set(p[m == 1].tolist()) for p, m in zip(shown, rows.targets, strict=True)]
            assert all(len(each) == 1 for each in of_each)
            greys.append([each.pop() for each in of_each])
        support, query = greys
        assert {g // 10 for g in support} == {g // 10 for g in query}
        assert not {g % 10 for g in support} & {g % 10 for g in query}
        assert source.names(generator(i))[1] == "abcd"[query[0] // 10]
        seen.add(len(support))
    assert seen == {1, 2, 3, 4}


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(ValueError, match=r"needs 5 \+ 3 pictures.*found 7. Ask for fewer"):
        mask_tasks(numbered(), 5, 3)
    with pytest.raises(ValueError, match="needs 5 pictures in other styles than the query's"):
        ObjectTasks(objects(), 5, 1)
    with pytest.raises(ValueError, match="at least 1; found shots=0"):
        ObjectTasks(objects(), 0, 1)
    with pytest.raises(ValueError, match=r"size of their pictures, \(2, 4, 4\); found \(2, 4, 3\)"):
        MaskedPictures(torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 3), ("a", "b"))
    with pytest.raises(ValueError, match=r"those of 2 classes; found 2. Name every class"):
        MaskedPictures(torch.zeros(2, 3, 4, 4), torch.full((2, 4, 4), 2), ("a", "b"))
