from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import quickstudy as qs
from quickstudy.answers import Classes, Labels, Reals
from quickstudy.answers.classes import cross_entropy
from quickstudy.core import Task
from quickstudy.tasks.examples import labelled, pad_rows, weighted_mean, without_absent
from quickstudy.tasks.stacks import stacks


def test_losses_equal_torchs():
    logits, ids = torch.randn(7, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0, 1, 2])
    expected = F.cross_entropy(logits, ids, reduction="none")
    torch.testing.assert_close(Classes(4).loss(logits, ids), expected)
    truth = torch.randn(7, 4, dtype=torch.float64)
    torch.testing.assert_close(Reals(4).loss(logits, truth), ((logits - truth) ** 2).mean(1))
    yes = (truth > 0).double()
    expected = F.binary_cross_entropy_with_logits(logits, yes, reduction="none").mean(1)
    torch.testing.assert_close(Labels(4).loss(logits, yes), expected)


def test_examples_scales_pixels_and_checks_shapes():
    pixels = np.array([[[0, 255]], [[51, 102]]], dtype=np.uint8)
    made = qs.examples(pixels, [3, 1])
    torch.testing.assert_close(made.inputs.flatten(), torch.tensor([0.0, 1.0, 0.2, 0.4]))
    assert made.targets.dtype == torch.int64
    assert made.weights.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("targets", "weights", "message"),
    [
        ([0], None, "one entry per row"),
        ([0.5, 0.5], None, r"targets\[:, None\]"),
        ([0, 1], [1.0, -1.0], "non-negative"),
        ([0, 1], [1.0], "2 non-negative"),
        ([0, 1], [1.0, float("nan")], "non-negative, finite numbers.* with nan"),
        ([0, 1], [1.0, float("inf")], "non-negative, finite numbers.* with inf"),
    ],
)
def test_examples_refuses(targets, weights, message):
    with pytest.raises(ValueError, match=message):
        qs.examples(torch.zeros(2, 3), targets, weights)


def test_specs_refuse_too_few_outputs():
    with pytest.raises(ValueError, match="ways must be a whole number of at least 2; found 1"):
        qs.classification(1)
    with pytest.raises(ValueError, match="at least 1; found 0"):
        qs.regression(0)


def test_unlabelled_rows_get_weight_0():
    ids = labelled(qs.examples(torch.zeros(3, 1), [1, -1, 0]), Classes(2))
    assert ids.weights.tolist() == [1, 0, 1]
    some = [[1.0, float("nan")], [float("nan"), float("nan")], [2.0, 3.0]]
    reals = labelled(qs.examples(torch.zeros(3, 1), some), Reals(2, missing=True))
    assert reals.weights.tolist() == [1, 0, 1]  # one known element is enough


def test_examples_takes_trees_of_inputs_and_targets_and_groups():
    made = qs.examples(
        {"ids": np.array([[1, 2]]), "mask": np.ones((1, 2), dtype=bool)},
        {"boxes": np.zeros((1, 3, 4), dtype=np.float32), "classes": np.zeros((1, 3), dtype=int)},
        groups=[4],
    )
    assert made.inputs["mask"].dtype == torch.bool
    assert made.targets["boxes"].shape == (1, 3, 4)
    assert made.groups.tolist() == [4]
    assert qs.examples(torch.zeros(2, 1), [0, 1]).groups.tolist() == [0, 0]
    with pytest.raises(ValueError, match="groups must be 1 integers"):
        qs.examples(torch.zeros(1, 1), [0], groups=[0.5])
    with pytest.raises(ValueError, match=r"targets.classes have shape \(2,\)"):
        qs.examples(torch.zeros(1, 1), {"classes": np.array([0, 1])})


IMAGES = torch.tensor([0, 51, 255, 0], dtype=torch.uint8).view(1, 1, 2, 2)


def test_uint8_images_in_a_tree_are_scaled_and_other_uint8_refused() -> None:
    words = torch.tensor([[3, 4]])
    made = qs.examples({"image": IMAGES, "ids": words}, [0])
    torch.testing.assert_close(made.inputs["image"].flatten(), torch.tensor([0, 0.2, 1, 0]))
    assert torch.equal(made.inputs["ids"], words)
    for inputs in (
        {"ids": words.byte()},
        {"image": IMAGES, "mask": words > 3, "ids": words.byte()},
    ):
        with pytest.raises(
            ValueError, match=r"examples: uint8 .*inputs.ids of shape \(1, 2\).*long"
        ):
            qs.examples(inputs, [0])
    with pytest.raises(ValueError, match=r"inputs.0 of shape \(1, 2, 2\)"):
        qs.examples((IMAGES[0],), [0])


class Graph(NamedTuple):
    nodes: Any
    edges: Any


def test_named_tuples_of_inputs_keep_their_type() -> None:
    made = qs.examples({"graph": Graph([[1.0, 2.0]], np.ones((1, 2, 2)))}, [0])
    assert type(made.inputs["graph"]) is Graph
    assert made.inputs["graph"].nodes.tolist() == [[1, 2]]
    assert made.inputs["graph"].edges.shape == (1, 2, 2)


def test_tasks_of_lists_arrays_and_tensors_share_a_stack() -> None:
    numbers = [[0.5], [1.5]]
    tensors = torch.tensor(numbers)
    kinds = (numbers, np.array(numbers), tensors, tensors.double(), tensors.half())
    rows = [qs.examples(x, y) for x in kinds for y in kinds]
    assert {each.targets.dtype for each in rows} == {torch.get_default_dtype()}
    assert len(stacks([Task(each, each, qs.regression()) for each in rows])) == 1


@pytest.mark.parametrize("targets", [[], torch.zeros(0, 1), torch.zeros(0, dtype=torch.long)])
def test_examples_without_rows_are_refused(targets: Any) -> None:
    for inputs in ([], torch.zeros(0, 2)):
        with pytest.raises(ValueError, match="examples: needs at least 1 row; found 0"):
            qs.examples(inputs, targets)


def test_weighted_mean_ignores_values_of_weight_0():
    values = torch.tensor([1.0, 3.0, float("nan")])
    assert float(weighted_mean(values, torch.tensor([1.0, 3.0, 0.0]))) == pytest.approx(2.5)
    assert float(weighted_mean(values, torch.zeros(3))) == 0


def test_absent_classes_get_no_probability_and_no_gradient():
    logits = torch.randn(3, 4, requires_grad=True)
    masked = without_absent(logits, torch.tensor([True, False, True, True]))
    assert masked.isfinite().all()
    assert masked.softmax(-1)[:, 1].tolist() == [0, 0, 0]
    cross_entropy(masked, torch.tensor([0, 2, 3])).sum().backward()
    assert logits.grad is not None
    assert logits.grad[:, 1].tolist() == [0, 0, 0]


def test_padding_has_weight_0():
    padded = pad_rows(qs.examples(torch.ones(2, 3), [0, 1]), 5)
    assert padded.weights.tolist() == [1, 1, 0, 0, 0]
    assert padded.inputs.shape == (5, 3)


def test_class_ids_beyond_the_spec_are_refused():
    learner = qs.Prototypical(qs.backbones.MLP(2))
    support = qs.examples(torch.zeros(3, 2), [0, 1, 5])
    with pytest.raises(ValueError, match="must lie in 0 … 1 for a task of 2 outputs; found 5"):
        learner(support, qs.classification(2))


def test_the_error_for_one_hot_rows_says_how_to_get_ids():
    learner = qs.Prototypical(qs.backbones.MLP(2))
    with pytest.raises(ValueError, match="argmax"):
        learner(qs.examples(torch.zeros(2, 2), [[0, 1], [1, 0]]), qs.classification(2))
