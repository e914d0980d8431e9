"""Augmentations against numpy, PIL and scipy; and tasks whose images are augmented."""

import math
from itertools import permutations

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance
from scipy.ndimage import affine_transform

import quickstudy as qs
from made_up import random_classes
from quickstudy.base.augmentations import AUGMENTATIONS
from quickstudy.tasks.augmentation import Affine, Chain, Colour, Crop, Flip, augmentation
from quickstudy.tasks.numbering import draw, draw_stacks, fingerprint, generator
from quickstudy.tasks.stacks import unstack


def pictures(n, channels=3, height=12, width=16, low=0.0, high=1.0):
    return low + (high - low) * torch.rand(n, channels, height, width, generator=generator(7))


def test_a_crop_is_a_window_of_the_padded_image_and_all_are_equally_likely():
    image = pictures(1)
    n, p = 2500, 2
    cropped = Crop(p)(image.expand(n, -1, -1, -1), generator(0)).numpy()
    padded = np.pad(image[0].numpy(), ((0, 0), (p, p), (p, p)))
    found = np.zeros(n, dtype=int)
    for y in range(2 * p + 1):
        for x in range(2 * p + 1):
            window = padded[:, y : y + 12, x : x + 16]
            hit = (cropped == window).all((1, 2, 3))
            found += hit
            # 100 each, standard deviation about 10
            assert 60 <= hit.sum() <= 140
    assert (found == 1).all()


@pytest.mark.parametrize(("side", "padding"), [(84, 8), (32, 4), (28, 4), (8, 2)])
def test_the_default_padding_is_the_published_one(side, padding):
    image = torch.ones(1, 1, side, side).expand(400, -1, -1, -1)
    black = (Crop()(image, generator(0))[:, 0].amax(2) == 0).sum(1)
    assert int(black.max()) == padding


def test_a_flip_exchanges_left_and_right_in_half_of_the_images():
    images = pictures(1000)
    flipped = Flip()(images, generator(0)).numpy()
    same = (flipped == images.numpy()).all((1, 2, 3))
    mirrored = (flipped == images.numpy()[..., ::-1]).all((1, 2, 3))
    assert (same ^ mirrored).all()
    assert 430 <= mirrored.sum() <= 570  # standard deviation about 16
    assert Flip(1.0)(images, generator(0)).equal(images.flip(3))


def to_pil(image):
    return Image.fromarray((255 * image).round().byte().permute(1, 2, 0).numpy())


@pytest.mark.parametrize(
    ("name", "enhancer"),
    [("brightness", ImageEnhance.Brightness), ("contrast", ImageEnhance.Contrast),
     ("saturation", ImageEnhance.Color)],
)  # fmt: skip
def test_each_colour_factor_does_what_pil_does(name, enhancer):
    images = (255 * pictures(60, low=0.3, high=0.6)).round() / 255  # nothing is cut off
    none = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0}
    changed = Colour(**none | {name: 0.4})(images, generator(3))
    factors = []
    for before, after in zip(images, changed, strict=True):
        enhance = enhancer(to_pil(before))
        base = torch.from_numpy(np.array(enhance.degenerate)).permute(2, 0, 1) / 255
        # after = f before + (1 - f) base: f by least squares
        difference = before - base
        factor = float(((after - base) * difference).sum() / difference.square().sum())
        expected = torch.from_numpy(np.array(enhance.enhance(factor))).permute(2, 0, 1) / 255
        assert (after - expected).abs().max() < 2.5 / 255  # PIL rounds
        factors.append(factor)
    factors = np.array(factors)
    assert 0.59 < factors.min() < 0.7
    assert 1.3 < factors.max() < 1.41
    assert abs(factors.mean() - 1) < 0.12  # standard deviation of the mean 0.03


def test_the_three_colour_factors_are_applied_in_any_order():
    images = pictures(20, low=0.4, high=0.5)  # nothing is cut off
    changed = Colour()(images, generator(3)).numpy()
    factors = 0.6 + 0.8 * torch.rand(20, 3, generator=generator(3)).numpy()
    grey = np.array([0.299, 0.587, 0.114])[:, None, None]

    def apply(name, image, f):
        luma = (grey * image).sum(0, keepdims=True)
        base = {"b": 0.0, "c": luma.mean(), "s": luma}[name]
        return f * image + (1 - f) * base

    for order in permutations("bcs"):
        for i, expected in enumerate(images.double().numpy()):
            for name in order:
                expected = apply(name, expected, factors[i]["bcs".index(name)])
            assert np.abs(changed[i] - expected).max() < 1e-6, order


def test_colours_are_cut_off_and_grey_images_keep_their_grey():
    images = pictures(200)
    bright = Colour()(images, generator(0))
    assert float(bright.min()) == 0
    assert float(bright.max()) == 1
    grey = pictures(5, channels=1)
    assert Colour(0, 0, 1.0)(grey, generator(0)).allclose(grey)


def test_an_affine_map_is_that_of_scipy():
    images = pictures(4, channels=1).double()
    changed = Affine(30, 0.2, 0.3)(images, generator(5)).numpy()
    turn, down, right, grow = (2 * torch.rand(4, 4, generator=generator(5)) - 1).numpy()
    centre, sides = np.array([5.5, 7.5]), np.array([12, 16])
    for i in range(4):
        angle, size = math.radians(30) * turn[i], 1 + 0.3 * grow[i]
        cos, sin = math.cos(angle) / size, math.sin(angle) / size
        back = np.array([[cos, -sin], [sin, cos]])  # of (y, x)
        shift = -0.2 * sides * np.array([down[i], right[i]])
        offset = 1 + centre + shift - back @ (1 + centre)  # with a border of one pixel
        padded = np.pad(images[i, 0].numpy(), 1)
        expected = affine_transform(padded, back, offset, (14, 18), order=1)[1:-1, 1:-1]
        assert np.abs(changed[i, 0] - expected).max() < 1e-5, i
    with pytest.raises(AssertionError):  # unlike images do differ
        np.testing.assert_allclose(changed, images.numpy(), atol=0.1)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_every_name_is_one_and_uses_only_the_generator(name):
    augment, images = augmentation(name), pictures(6)
    kept = images.clone()
    torch.manual_seed(1)
    first = augment(images, generator(0))
    torch.manual_seed(2)
    assert augment(images, generator(0)).equal(first)
    assert images.equal(kept)
    assert not augment(images, generator(1)).equal(first)
    assert (first.shape, first.dtype) == (images.shape, images.dtype)


def test_several_are_applied_in_the_given_order():
    images = pictures(5)
    chained = augmentation("crop+flip+colour")
    assert chained == Chain((Crop(), Flip(), Colour()))
    g = generator(0)
    assert chained(images, generator(0)).equal(Colour()(Flip()(Crop()(images, g), g), g))


def shapes_of(task):
    return [(e.inputs.shape, e.inputs.dtype, e.targets.tolist()) for e in task[:2]]


def test_augmented_tasks_have_the_same_rows_changed_and_the_same_seed_gives_the_same():
    split = random_classes()
    plain = qs.episodes(split, 3, 2, queries=4)
    source = qs.episodes(split, 3, 2, queries=4, augment="flip")
    changed = 0
    for seed in range(10):
        before, after = plain(generator(seed)), source(generator(seed))
        assert shapes_of(before) == shapes_of(after)
        assert source.names(generator(seed)) == plain.names(generator(seed))
        for a, b in zip(before[:2], after[:2], strict=True):
            same = (a.inputs == b.inputs).flatten(1).all(1)
            mirrored = (a.inputs.flip(3) == b.inputs).flatten(1).all(1)
            assert (same | mirrored).all()
            changed += int(mirrored.sum())
    assert 60 < changed < 120  # of 180
    assert split.inputs.dtype == torch.uint8
    numbers = [draw(source, 0, i) for i in range(4)]
    together = [task for s in draw_stacks(source, 0, range(4)) for task in unstack(s.task)]
    assert fingerprint(numbers) == fingerprint(together)
    assert fingerprint(numbers) != fingerprint(draw(plain, 0, i) for i in range(4))


def test_support_and_query_may_be_augmented_differently():
    split = random_classes()
    plain = qs.episodes(split, 3, 2, queries=4)(generator(0))

    def negative(images, generator):
        return 1 - images

    only_query = qs.episodes(split, 3, 2, queries=4, augment=(None, negative))(generator(0))
    assert only_query.support.inputs.equal(plain.support.inputs)
    assert only_query.query.inputs.equal(1 - plain.query.inputs)
    both = qs.episodes(split, 3, 2, queries=4, augment=negative)(generator(0))
    assert both.support.inputs.equal(1 - plain.support.inputs)
    assert both.query.inputs.equal(1 - plain.query.inputs)


def vectors():
    return qs.LabelledRows(torch.rand(20, 5), torch.tensor([10, 10]), ("a", "b"))


def tree():
    return qs.LabelledRows({"a": torch.rand(20, 1, 4, 4)}, torch.tensor([10, 10]), ("a", "b"))


def standardised():
    images = torch.randn(20, 3, 8, 8, generator=generator(0))
    return qs.LabelledRows(images, torch.tensor([10, 10]), ("a", "b"))


@pytest.mark.parametrize(
    ("split", "augment", "message"),
    [
        (random_classes, "crop+flop", "'flop' is unknown. Did you mean 'flip'"),
        (random_classes, "", "augment: '' is unknown"),
        (random_classes, "flip+flip", "flip is given twice"),
        (random_classes, 3, "must be a function .*found 3"),
        (random_classes, ("flip",), r"a pair \(support, query\); found 1"),
        (random_classes, lambda x, g: x[..., 1:], "must keep shape and type"),
        (random_classes, lambda x, g: x.double(), "must keep shape and type"),
        (random_classes, lambda x, g: None, "it gave NoneType"),
        (vectors, "crop", r"crop: needs images .*found torch.float32 of shape \(2, 5\)"),
        (tree, "flip", "must be one tensor"),
        (standardised, "colour", r"colour: pixels must be in \[0, 1\]; found -"),
    ],
)
def test_what_cannot_be_augmented_is_refused_before_any_task(split, augment, message):
    with pytest.raises(ValueError, match=message):
        qs.episodes(split(), 2, 1, queries=2, augment=augment)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Crop(0), "padding must be 1 or more"), (lambda: Flip(0), "probability"),
        (lambda: Colour(contrast=1.5), "contrast must be from 0 to 1"),
        (lambda: Affine(shift=-1), "shift must be from 0"),
        (lambda: Colour(float("nan")), "brightness must be"),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_resumed_run_is_equal_and_needs_the_same_augmentation(tmp_path):
    split = random_classes(side=8)

    def trained(steps, run=None, resume=False, augment="crop+flip"):
        torch.manual_seed(0)
        learner = qs.Prototypical(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 8)))
        source = qs.episodes(split, 3, 1, queries=2, augment=augment)
        qs.fit(learner, source, steps, 2, run=run, resume=resume, progress=False)
        return list(learner.parameters())

    whole = trained(6)
    trained(3, tmp_path)
    for a, b in zip(whole, trained(6, tmp_path, resume=True), strict=True):
        assert a.equal(b)
    with pytest.raises(ValueError, match="first tasks"):
        trained(8, tmp_path, resume=True, augment="flip")
