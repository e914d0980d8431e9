"""Detection by centres: each step against a closed form or a loop in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import quickstudy as qs
from made_up import bright_boxes, examples_of
from quickstudy.answers.metrics import box_iou
from quickstudy.backbones import Conv4
from quickstudy.backbones.centre_head import CentreHead, Centres
from quickstudy.learners.transfer.centre_learner import centre_loss, one_slot_a_class
from quickstudy.learners.transfer.centres import (
    crops,
    edge_losses,
    found_boxes,
    heat_losses,
    heat_of,
    pooled,
    radii,
)
from quickstudy.learners.transfer.crop_detection import prototypes
from quickstudy.tasks.numbering import draw
from quickstudy.training.optimisers import adam

OVERLAP = 0.7


def rectangle(left: float, top: float, right: float, bottom: float) -> Tensor:
    return torch.tensor([[left, top, right, bottom]], dtype=torch.float64)


@pytest.mark.parametrize(("w", "h"), [(10.0, 10.0), (4.0, 30.0), (1.0, 1.0)])
def test_corners_moved_by_the_radius_leave_the_overlap(w: float, h: float) -> None:
    """In the worst of the three cases the IoU is 0.7 exactly; in the others it is more."""
    r = float(radii(torch.tensor([w, h], dtype=torch.float64), OVERLAP))
    box = rectangle(0, 0, w, h)
    moved = [
        rectangle(r, r, w + r, h + r), rectangle(r, r, w - r, h - r),
        rectangle(-r, -r, w + r, h + r),
    ]  # fmt: skip
    overlaps = [float(box_iou(box, each)) for each in moved]
    assert min(overlaps) == pytest.approx(OVERLAP, abs=1e-12)


def test_the_heat_is_one_at_centres_and_falls_as_a_gaussian() -> None:
    box = torch.tensor([[[0.2, 0.1, 0.6, 0.5], [0.5, 0.5, 0.5, 0.5]]], dtype=torch.float64)
    exists = torch.tensor([[True, False]])
    heat = heat_of(box, exists, (10, 20))[0]
    # The centre (0.4, 0.3) lies in column 8 of 20 and row 3 of 10; the box has 8 x 4 cells.
    assert float(heat[3, 8]) == 1
    sigma = (2 * float(radii(torch.tensor([8.0, 4.0], dtype=torch.float64))) + 1) / 6
    assert float(heat[4, 10]) == pytest.approx(math.exp(-(1 + 4) / (2 * sigma**2)))
    assert int((heat == 1).sum()) == 1  # padding has no centre
    assert not heat_of(box, torch.zeros(1, 2, dtype=torch.bool), (10, 20)).any()


def test_the_focal_loss_is_that_of_the_paper_at_every_position() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 3, 4, generator=generator, dtype=torch.float64)
    true = torch.rand(1, 3, 4, generator=generator, dtype=torch.float64)
    true[0, 1, 2] = 1
    expected = 0.0
    for x, y in zip(logits.flatten().tolist(), true.flatten().tolist(), strict=True):
        p = 1 / (1 + math.exp(-x))
        expected -= (1 - p) ** 2 * math.log(p) if y == 1 else (1 - y) ** 4 * p**2 * math.log(1 - p)
    assert float(heat_losses(logits, true)) == pytest.approx(expected)


def test_a_head_that_says_the_aims_gives_the_boxes_back() -> None:
    """``aims`` and ``boxes`` are inverse; where they agree, the loss of edges is 0."""
    head = CentreHead(2, width=4).double()
    generator = torch.Generator().manual_seed(1)
    start = torch.rand(3, 2, 2, generator=generator, dtype=torch.float64) * 0.5
    size = torch.rand(3, 2, 2, generator=generator, dtype=torch.float64) * 0.4 + 0.05
    boxes = torch.cat([start, start + size], -1)
    cells, aims = head.aims(boxes, (5, 7))
    one = (torch.eye(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64))
    assert torch.allclose(head.boxes(aims, cells, (5, 7), one), boxes)
    hidden = torch.zeros(3, 4, 5, 7, dtype=torch.float64)
    for i in range(3):
        for j in range(2):
            hidden[i, :, cells[i, j] // 7, cells[i, j] % 7] = aims[i, j]
    distinct = cells[:, 0] != cells[:, 1]
    losses = edge_losses(head, hidden, boxes, torch.ones(3, 2, dtype=torch.bool), one)
    assert bool((losses[distinct].abs() < 1e-12).all())
    moved = edge_losses(head, hidden + 1, boxes, torch.ones(3, 2, dtype=torch.bool), one)
    # Each of two boxes is wrong by 1 in two offsets and, weighted by 0.1, in two sizes.
    assert torch.allclose(moved[distinct], torch.tensor(4.4, dtype=torch.float64))


def test_peaks_give_boxes_once_and_the_most_certain_first() -> None:
    head = CentreHead(1, width=1).double()
    with torch.no_grad():
        head.edges.weight.zero_()
        head.edges.bias.copy_(torch.tensor([0, 0, math.log(0.5), math.log(0.5)]))
    heat = torch.full((1, 20, 20), -9.0, dtype=torch.float64)
    # A peak, its neighbour, a second peak of the same object two cells away, and another object.
    heat[0, 8, 8], heat[0, 8, 9], heat[0, 8, 10], heat[0, 16, 16] = 3.0, 2.0, 2.5, 1.0
    found = found_boxes(head, Centres(heat, torch.zeros(1, 1, 20, 20).double()), slots=3)
    expected = torch.tensor([3.0, 0, 1.0]).double().sigmoid() * torch.tensor([1, 0, 1])
    assert torch.allclose(found.certainty[0], expected)
    # Half of the picture around the middle of the cells; the last is cut at the edge.
    first, last = [0.175, 0.175, 0.675, 0.675], [0.575, 0.575, 1.0, 1.0]
    assert torch.allclose(found.boxes[0, [0, 2]], torch.tensor([first, last]).double())


def test_a_crop_of_the_whole_picture_is_the_picture_and_of_a_reduced_one_its_mean() -> None:
    pictures = torch.rand(1, 3, 8, 8, dtype=torch.float64)
    whole = torch.tensor([[[0.0, 0.0, 1.0, 1.0]]], dtype=torch.float64)
    assert torch.allclose(crops(pictures, whole, 8, 0.0)[0, 0], pictures[0])
    ramp = torch.arange(8).double().expand(1, 1, 8, 8)
    half = torch.tensor([[[0.25, 0.25, 0.75, 0.75]]], dtype=torch.float64)
    # Bilinear interpolation of a ramp is exact: pixels 2 … 6 at the middle of 8 parts.
    steps = torch.arange(8).double() / 2 + 2 + 0.25 - 0.5
    assert torch.allclose(crops(ramp, half, 8, 0.0)[0, 0, 0], steps.expand(8, 8))
    constant = torch.full((1, 1, 9, 7), 0.3, dtype=torch.float64)
    beyond = torch.tensor([[[0.8, 0.0, 1.0, 0.9]]], dtype=torch.float64)
    assert torch.allclose(crops(constant, beyond, 5, 0.5), torch.tensor(0.3).double())


def test_pooled_features_are_means_over_the_area_of_the_box() -> None:
    maps = torch.rand(1, 2, 4, 5, dtype=torch.float64)
    box = torch.tensor([[[0.1, 0.3, 0.75, 0.9]]], dtype=torch.float64)
    fine = maps.repeat_interleave(100, 2).repeat_interleave(100, 3)  # 400 x 500
    expected = fine[0, :, 120:360, 50:375].mean((1, 2))
    assert torch.allclose(pooled(maps, box)[0, 0], expected)
    tiny = torch.tensor([[[0.5, 0.5, 0.5, 0.5]]], dtype=torch.float64)
    assert pooled(maps, tiny).isfinite().all()


def test_logits_are_the_probability_of_one_class_or_nothing_in_each_slot() -> None:
    p = torch.tensor([[[0.6, 0.3], [0.0, 0.05]]], dtype=torch.float64)
    found = one_slot_a_class(torch.rand(1, 2, 4, dtype=torch.float64), p)
    shares = found["logits"].softmax(-1)
    assert torch.allclose(shares[0, 0], torch.tensor([0.6, 0, 0.4]).double(), atol=1e-6)
    assert torch.allclose(shares[0, 1], torch.tensor([0, 0.3, 0.7]).double(), atol=1e-6)
    assert torch.equal(found["boxes"][0, 0], found["boxes"][0, 1])


def test_prototypes_are_directions_of_class_means() -> None:
    features = torch.randn(5, 3, dtype=torch.float64)
    targets = torch.eye(2, dtype=torch.float64)[[0, 0, 1, 1, 1]]
    weights = torch.tensor([1.0, 2.0, 1.0, 0.0, 1.0], dtype=torch.float64)
    weight, _ = prototypes(features, targets, weights, 0.05)
    mean = (features[0] + 2 * features[1]) / 3
    assert torch.allclose(weight[:, 0], 20 * mean / mean.norm())


def made(**options: int) -> qs.CropDetection:
    torch.manual_seed(0)
    backbone = Conv4(channels=8, image_size=32, pools=2, flat=False)
    return qs.CropDetection(backbone, slots=4, width=8, **options)


def test_after_training_it_finds_rectangles_and_tells_them_apart() -> None:
    """AP50 of 8 other pictures of the same two classes: 0 before, far above after 60 steps."""
    learner, source = made(), bright_boxes(shots=2, queries=8, side=32)
    before = score(learner, source)
    qs.fit(learner, source, 60, 1, optimiser=adam(3e-3), progress=False)
    assert before < 0.15
    assert score(learner, source) > 0.35


def test_training_counts_each_object_of_support_and_queries_once() -> None:
    """The focal loss of all pictures and the edges of all objects, over the number of objects."""
    learner, task = made().double(), draw(bright_boxes(side=32), 0, 0)
    rows = [*zip(task.support.inputs, task.support.targets["boxes"][:, 0], strict=True)]
    rows += [*zip(task.query.inputs, task.query.targets["boxes"][:, 0], strict=True)]
    total = torch.zeros((), dtype=torch.float64)
    for picture, box in rows:
        centres = learner.head(learner.backbone(picture[None].double()))
        one, there = box.double().reshape(1, 1, 4), torch.ones(1, 1, dtype=torch.bool)
        size = (centres.heat.shape[1], centres.heat.shape[2])
        total = total + heat_losses(centres.heat, heat_of(one, there, size)).sum()
        total = total + edge_losses(learner.head, centres.hidden, one, there).sum()
    in_double = [
        part._replace(inputs=part.inputs.double(), weights=part.weights.double())
        for part in (task.support, task.query)
    ]
    found = centre_loss(learner, task._replace(support=in_double[0], query=in_double[1])).loss
    assert float(found.detach()) == pytest.approx(float(total.detach()) / len(rows), rel=1e-6)


def test_a_box_that_is_left_out_is_no_find() -> None:
    """Every slot names a class, so a box below the least certainty must not lie on an object."""
    learner, source = made(), bright_boxes(shots=2, queries=4, side=32)
    task = draw(source, 0, 0)
    with torch.no_grad():
        learner.head.heat.weight.zero_()
        for bias, left_out in ((-5.0, True), (0.0, False)):  # certainties of 0.7 % and 50 %
            learner.head.heat.bias.fill_(bias)
            boxes = learner(task.support, task.spec)(task.query.inputs)["boxes"]
            assert bool((boxes[..., 2:] == boxes[..., :2]).all()) == left_out


def score(learner: qs.CropDetection, source: qs.TaskSource) -> float:
    task = draw(source, 5, 0)
    with torch.no_grad():
        predictions = learner(task.support, task.spec)(task.query.inputs)
    ap50 = task.spec.answer.score
    return float(ap50.value(ap50.statistic(predictions, task.query)))


def test_remembered_objects_are_base_classes_or_what_is_not_asked_for() -> None:
    learner, source = made(base=2, exemplars=3), bright_boxes(shots=4, side=32)
    task = draw(source, 0, 0)
    learner.remember(task.support)
    assert learner.exemplar_classes.tolist() == [0, 0, -1, 1, 1, -1]
    targets = task.support.targets
    third = {
        "boxes": targets["boxes"],
        "classes": targets["classes"].where(targets["classes"] < 0, 2),
    }
    new = examples_of(task.support.inputs, third)
    state = learner.adapt(new, qs.detection(3, base=2))
    assert state["seen"].tolist() == [True, True, True, False]
    alone = {"boxes": targets["boxes"], "classes": targets["classes"].clamp_max(0)}
    state = learner.adapt(examples_of(task.support.inputs, alone), qs.detection(1))
    assert state["seen"].tolist() == [True, True]  # the class asked for, and others
    with pytest.raises(ValueError, match="the task has 1 base classes, but the learner was"):
        learner.adapt(task.support, qs.detection(2, base=1))
    with pytest.raises(ValueError, match="base class 1 of 2 has no object"):
        made(base=2, exemplars=3).remember(examples_of(task.support.inputs, alone))


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="base and exemplars both positive or both 0"):
        made(base=2)
    with pytest.raises(ValueError, match=r"maps .*found vectors of 8"):
        qs.CropDetection(qs.backbones.MLP(4, (8,)))
    with pytest.raises(TypeError, match="centre_loss: needs a learner with a centre head"):
        centre_loss(qs.Prototypical(qs.backbones.MLP(4)), draw(bright_boxes(), 0, 0))
