"""Learners of masks equal loops over cells, written from their equations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import quickstudy as qs
from made_up import PixelNet, bright_places, examples_of
from quickstudy.contract.check import doubled
from quickstudy.learners.gradient.descend import sgd
from quickstudy.learners.metric.dense_matching import overlap_loss
from quickstudy.learners.metric.prototypical_segmentation import aligned_loss
from quickstudy.objectives import query_loss
from quickstudy.tasks.numbering import draw

SHOTS, QUERIES, SIDE, CELLS, CHANNELS = 2, 2, 8, 4, 3


class Cells(nn.Module):
    """Maps (n, 3, 4, 4), the means of 2x2 pixels, through one linear map of the channels."""

    feature_shape = (CHANNELS, CELLS, CELLS)

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(CHANNELS, CHANNELS, 1, bias=False)

    def forward(self, pictures: Tensor) -> Tensor:
        maps: Tensor = self.mix(nn.functional.avg_pool2d(pictures, 2))
        return maps


def numbers(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def task(unknown: bool = True) -> qs.Task:
    """Three classes; class 2 is in the first picture alone; masks of whole cells."""
    weights = torch.tensor([1.0, 3.0], dtype=torch.float64)
    classes = torch.tensor([[[0, 1, 2, 0], [1, 1, 2, 2]] * 2, [[0, 0, 1, 1], [1, 0, 0, 0]] * 2])
    if unknown:
        classes[0, 0, 0] = -1
    masks = classes.repeat_interleave(2, 1).repeat_interleave(2, 2)
    support = examples_of(numbers(1, SHOTS, CHANNELS, SIDE, SIDE), masks, weights)
    query = examples_of(numbers(2, QUERIES, CHANNELS, SIDE, SIDE), masks.flip(2))
    return qs.Task(support, query, qs.segmentation(3))


def learner_of(make) -> qs.Learner:
    torch.manual_seed(0)
    return make(Cells()).double()


def cells_of(learner, of: qs.Task) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Maps of support and query with channels last, and the class of each support cell."""
    maps = (learner.backbone(rows.inputs).detach() for rows in (of.support, of.query))
    support, query = (each.movedim(1, -1).numpy() for each in maps)
    return support, query, of.support.targets[:, ::2, ::2].numpy()


def unit(v: np.ndarray) -> np.ndarray:
    return v / np.linalg.norm(v)


def enlarged(logits: np.ndarray) -> Tensor:
    """(n, 4, 4, k) -> (n, 8, 8, k), by torch's bilinear interpolation."""
    maps = torch.from_numpy(logits).movedim(-1, 1)
    return nn.functional.interpolate(maps, (SIDE, SIDE), mode="bilinear").movedim(1, -1)


def test_prototypes_are_means_over_pictures_of_means_over_areas() -> None:
    of, learner = task(), learner_of(lambda b: qs.PrototypicalSegmentation(b, scale=7.0))
    support, query, classes = cells_of(learner, of)
    prototypes = []
    for c in range(3):
        means = {i: support[i][classes[i] == c].mean(0) for i in range(SHOTS) if c in classes[i]}
        weights = [float(of.support.weights[i]) for i in means]
        prototypes.append(np.average(list(means.values()), 0, weights))
    expected = np.array([
        [[[7 * unit(x) @ unit(p) for p in prototypes] for x in row] for row in picture]
        for picture in query
    ])  # fmt: skip
    found = learner(of.support, of.spec)(of.query.inputs)
    torch.testing.assert_close(found, enlarged(expected))


def test_the_aligned_loss_segments_the_support_by_the_predicted_masks() -> None:
    of, learner = task(unknown=False), learner_of(qs.PrototypicalSegmentation)
    predicted = learner(of.support, of.spec)(of.query.inputs).argmax(-1)
    way_back = qs.Task(of.query._replace(targets=predicted), of.support, of.spec)
    expected = query_loss(learner, of).loss + query_loss(learner, way_back).loss
    torch.testing.assert_close(aligned_loss(learner, of).loss, expected)
    learner.alignment = 0.0
    torch.testing.assert_close(aligned_loss(learner, of).loss, query_loss(learner, of).loss)
    with pytest.raises(TypeError, match="needs PrototypicalSegmentation; found MAML"):
        aligned_loss(qs.MAML(PixelNet()), of)


def evidence(learner, of: qs.Task) -> np.ndarray:
    """e of every query cell and class, by a loop over all support cells."""
    support, query, classes = cells_of(learner, of)
    cells = [
        (x, classes[i, r, c], float(of.support.weights[i]))
        for i in range(SHOTS) for r, row in enumerate(support[i]) for c, x in enumerate(row)
    ]  # fmt: skip
    totals = [sum(w for _, k, w in cells if k == c) for c in range(3)]

    def votes(x: np.ndarray) -> list[float]:
        sums = [0.0] * 3
        for key, k, weight in cells:
            if k >= 0:
                sums[k] += weight / totals[k] * math.exp(9 * unit(x) @ unit(key))
        return [math.log(s) for s in sums]

    return np.array([[[votes(x) for x in row] for row in picture] for picture in query])


def test_evidence_is_a_class_balanced_softmax_over_all_cells() -> None:
    of, learner = task(), learner_of(lambda b: qs.DenseMatching(b, keys=4, scale=9.0, width=0))
    found = learner(of.support, of.spec)(of.query.inputs)
    torch.testing.assert_close(found, enlarged(evidence(learner, of)))


def test_the_decoder_reads_each_class_alike_and_adds_to_the_evidence() -> None:
    of, learner = task(), learner_of(lambda b: qs.DenseMatching(b, scale=9.0, width=8))
    found = learner(of.support, of.spec)(of.query.inputs)
    order = torch.tensor([1, 2, 0])
    renamed = torch.where(of.support.targets < 0, -1, order[of.support.targets])
    again = learner(of.support._replace(targets=renamed), of.spec)(of.query.inputs)
    torch.testing.assert_close(again[..., order], found)
    assert (found - enlarged(evidence(learner, of))).abs().max() > 1e-3
    nn.init.zeros_(learner.decoder.last.weight)
    nn.init.zeros_(learner.decoder.last.bias)
    plain = learner(of.support, of.spec)(of.query.inputs)
    torch.testing.assert_close(plain, enlarged(evidence(learner, of)))


@pytest.mark.parametrize("background", [False, True])
def test_the_overlap_loss_adds_the_soft_intersection_over_union(background: bool) -> None:
    of, learner = task(), learner_of(lambda b: qs.DenseMatching(b, width=0))
    of = of._replace(spec=qs.segmentation(3, background=background))
    p = learner(of.support, of.spec)(of.query.inputs).softmax(-1).detach().numpy()
    y = np.eye(3)[of.query.targets.clamp_min(0)]
    y, p = (each[of.query.targets.numpy() >= 0] for each in (y, p))
    overlaps = [
        (p[:, k] * y[:, k]).sum() / (p[:, k] + y[:, k] - p[:, k] * y[:, k]).sum() for k in range(3)
    ]
    expected = 1 - np.mean(overlaps[1 if background else 0 :])
    found = overlap_loss(learner, of).loss - query_loss(learner, of).loss
    assert float(found.detach()) == pytest.approx(expected, abs=1e-12)


def pixel_head(**options) -> qs.PixelHead:
    return learner_of(lambda b: qs.PixelHead(b, batch=None, clip=None, **options))


def test_one_step_of_a_head_alone_is_the_gradient_at_zero() -> None:
    """∇W = mean over known cells of (softmax(0) - y) f, in closed form."""
    of = task()
    learner = pixel_head(adapts="head", steps=1, rate=0.5, update=sgd, symmetries=False)
    support, query, classes = cells_of(learner, of)
    gradient, total = np.zeros((3, CHANNELS)), 0.0
    for i in range(SHOTS):
        for x, k in zip(support[i].reshape(-1, CHANNELS), classes[i].flatten(), strict=True):
            weight = float(of.support.weights[i]) * (k >= 0)
            gradient += weight * np.outer(np.full(3, 1 / 3) - np.eye(3)[k], x)
            total += weight
    state = learner.adapt(of.support, of.spec)
    found = state["head"]["weight"]
    np.testing.assert_allclose(found.detach(), -0.5 * gradient / total, atol=1e-12)
    expected = enlarged(query @ found.detach().numpy().T + state["head"]["bias"].detach().numpy())
    torch.testing.assert_close(learner.predict(state, of.query.inputs, of.spec), expected)


def test_symmetries_are_eight_copies_and_a_mean_over_turned_queries() -> None:
    of, learner = doubled(draw(bright_places(side=8), 0, 0)), None
    torch.manual_seed(0)
    net = qs.backbones.Conv4(channels=8, image_size=8, pools=1, flat=False)
    learner = qs.PixelHead(net, steps=2, batch=None).double()

    def turned(t: Tensor, k: int) -> Tensor:
        t = torch.rot90(t, k % 4, (-2, -1))
        return t.flip(-1) if k >= 4 else t

    rows = of.support
    copies = examples_of(*(torch.cat([turned(t, k) for k in range(8)]) for t in rows[:2]))
    plain = qs.PixelHead(net, steps=2, batch=None, symmetries=False)
    states = learner.adapt(rows, of.spec), plain.adapt(copies, of.spec)
    for name in ("weight", "bias"):
        torch.testing.assert_close(states[0]["head"][name], states[1]["head"][name])
    found = learner.predict(states[0], of.query.inputs, of.spec)
    for k in (1, 5):
        again = learner.predict(states[0], turned(of.query.inputs, k), of.spec)
        torch.testing.assert_close(again, turned(found.movedim(-1, 1), k).movedim(1, -1))


@pytest.mark.parametrize(
    "make", [qs.PrototypicalSegmentation, qs.DenseMatching, qs.PixelHead], ids=lambda m: m.__name__
)
def test_vectors_in_place_of_maps_are_refused(make) -> None:
    with pytest.raises(ValueError, match=rf"^{make.__name__}: needs a backbone that gives maps"):
        make(qs.backbones.MLP(4))

    class Pooled(nn.Conv2d):
        feature_shape = (4, 1, 1)

        def forward(self, pictures: Tensor) -> Tensor:
            return super().forward(pictures).mean((2, 3))

    learner = make(Pooled(1, 4, 1))
    of = draw(bright_places(), 0, 0)
    with pytest.raises(ValueError, match=rf"^{make.__name__}: needs .* found shape \(\d+, 4\)"):
        learner(of.support, of.spec)


def test_pictures_that_are_not_square_have_no_eight_symmetries() -> None:
    pictures = torch.rand(2, 1, 6, 8)
    rows = qs.examples(pictures, (pictures[:, 0] > 0.5).long())
    learner = qs.PixelHead(nn.Conv2d(1, 4, 1), steps=1)
    with pytest.raises(ValueError, match="symmetries need square pictures"):
        learner(rows, qs.segmentation(2))
    other = qs.PixelHead(nn.Conv2d(1, 4, 1), steps=1, symmetries=False)
    assert other(rows, qs.segmentation(2))(pictures).shape == (2, 6, 8, 2)
