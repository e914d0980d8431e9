"""AP50 is that of the published COCO evaluation, pycocotools."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import quickstudy as qs
from made_up import examples_of
from quickstudy.answers.boxes import AP50, BaseAP50, NovelAP50, is_box
from quickstudy.core import Examples

CLASSES = 3


def test_ap50_is_that_of_pycocotools() -> None:
    """60 random sets: equal confidences, equal and exact overlaps, images without boxes or slots.

    Edges are multiples of 1/8, so that areas are exact and an IoU of one half occurs exactly.
    """
    pytest.importorskip("pycocotools")
    generator = torch.Generator().manual_seed(0)
    scores = (AP50(), NovelAP50(2), BaseAP50(2))
    seen = set()
    for _ in range(60):
        predictions, query = drawn(generator)
        statistic = AP50().statistic(predictions, query)
        expected = by_coco(predictions, query)
        for score, classes in zip(scores, (slice(None), slice(2, None), slice(2)), strict=True):
            of_these = expected[classes][expected[classes] > -1]
            wanted = of_these.mean() if len(of_these) else np.nan
            found = float(score.value(statistic))
            np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12)
            seen.add(round(found, 3))
    assert len(seen) > 40  # and so not the same in every case


def test_images_of_several_tasks_count_as_those_of_one() -> None:
    generator = torch.Generator().manual_seed(1)
    predictions, query = drawn(generator, images=6)
    score = AP50()
    parts = []
    for rows in (slice(0, 2), slice(2, 6)):
        each = {name: value[rows] for name, value in predictions.items()}
        targets = {name: value[rows] for name, value in query.targets.items()}
        parts.append(score.statistic(each, examples_of(query.inputs[rows], targets)))
    whole = score.statistic(predictions, query)
    assert score.value(score.merge(parts)) == score.value(whole)


def test_an_image_of_weight_two_is_two_images() -> None:
    predictions, query = drawn(torch.Generator().manual_seed(2), images=3)
    twice = [0, 1, 1, 2]
    weighted = query._replace(weights=torch.tensor([1.0, 2.0, 1.0]).double())
    repeated = examples_of(
        query.inputs[twice], {name: value[twice] for name, value in query.targets.items()}
    )
    again = {name: value[twice] for name, value in predictions.items()}
    # Confidences of one image follow one another only if they are unlike those of the others.
    assert len(predictions["logits"].unique()) == predictions["logits"].numel()
    of_weight, of_two = AP50().statistic(predictions, weighted), AP50().statistic(again, repeated)
    torch.testing.assert_close(of_weight["boxes"], of_two["boxes"])
    assert float(of_weight["weight"].sum()) == float(of_two["weight"].sum())


def test_base_classes_are_scored_apart() -> None:
    answer = qs.detection(5, base=3).answer
    assert [score.name for score in answer.scores] == ["novel AP50", "base AP50", "AP50"]
    with pytest.raises(ValueError, match="below k=3"):
        qs.detection(3, base=3)


def drawn(generator: torch.Generator, images: int = 4) -> tuple[dict[str, Tensor], Examples]:
    """Predictions and true boxes on a grid; half of the sets have few levels of confidence."""

    def boxes(*shape: int) -> Tensor:
        start = torch.randint(0, 5, (*shape, 2), generator=generator)
        size = torch.randint(1, 5, (*shape, 2), generator=generator)
        return torch.cat([start, (start + size)], -1).double() / 8

    slots, most = (int(torch.randint(1, n, (), generator=generator)) for n in (9, 6))
    true = boxes(images, most)
    classes = torch.randint(-1, CLASSES, (images, most), generator=generator)
    classes[torch.rand(images, generator=generator) < 0.2] = -1
    found = boxes(images, slots)
    copied = torch.rand(images, slots, generator=generator) < 0.5
    which = torch.randint(most, (images, slots), generator=generator)
    found = torch.where(
        copied[..., None], true.gather(1, which[..., None].expand(-1, -1, 4)), found
    )
    logits = torch.randn(images, slots, CLASSES + 1, generator=generator, dtype=torch.float64)
    if torch.rand((), generator=generator) < 0.5 and images == 4:
        logits = logits.round()
    inputs = torch.zeros(images, 1, dtype=torch.float64)
    return (
        {"boxes": found, "logits": logits},
        examples_of(inputs, {"boxes": true, "classes": classes}),
    )


def by_coco(predictions: dict[str, Tensor], query: Examples) -> np.ndarray[Any, Any]:
    """AP at 0.5 of each class by pycocotools; -1 for a class without true boxes."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def sized(box: Tensor) -> list[float]:
        left, top, right, bottom = (8 * box).tolist()
        return [left, top, right - left, bottom - top]

    images = range(len(query.weights))
    exists = is_box(query.targets)
    true = [
        {"id": 1 + 100 * i + j, "image_id": i, "category_id": int(query.targets["classes"][i, j]),
         "bbox": sized(box), "area": float((box[2:] - box[:2]).prod() * 64), "iscrowd": 0}
        for i in images for j, box in enumerate(query.targets["boxes"][i]) if exists[i, j]
    ]  # fmt: skip
    chosen = predictions["logits"].softmax(-1)[..., :-1].max(-1)
    found = [
        {"image_id": i, "category_id": int(chosen.indices[i, j]), "bbox": sized(box),
         "score": float(chosen.values[i, j])}
        for i in images for j, box in enumerate(predictions["boxes"][i])
    ]  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "info": {}, "images": [{"id": i} for i in images], "annotations": true,
            "categories": [{"id": k} for k in range(CLASSES)],
        }  # fmt: skip
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    # (IoU, recall, class, area, detections): the first IoU is 0.5, the last limit 100 detections.
    precision = evaluation.eval["precision"][0, :, :, 0, -1]
    return np.asarray([precision[:, k][precision[:, k] > -1].mean() if (precision[:, k] > -1).any()
                       else -1.0 for k in range(CLASSES)])  # fmt: skip
