"""Files that ask for too much, or whose bits have changed, are refused before anything is built."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

import quickstudy as qs
from quickstudy.files.limits import BoundedCalls
from quickstudy.files.registry import build_empty, describe
from quickstudy.files.trees import LARGEST_HEADER, load_tree, save_tree

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))


def backbone(outputs=None):
    return qs.backbones.MLP(6, (5,), outputs)


LEARNERS = {
    "mann": lambda: qs.MANN(backbone(), 2, 4, 8, 4),
    "matching": lambda: qs.Matching(backbone(), reads=1),
    "snail": lambda: qs.SNAIL(backbone(), 2, 4, 4),
    "in_context": lambda: qs.InContext(backbone(), size=8, layers=1, heads=2),
    "reptile": lambda: qs.Reptile(backbone(2)),
    "maml": lambda: qs.MAML(backbone(2), learn_rates=True),
    "prototypical": lambda: qs.Prototypical(backbone()),
    "ridge": lambda: qs.LinearProbe(backbone()),
}
INPUTS = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
SUPPORT, SPEC = qs.examples(INPUTS, [0, 1, 0, 1]), qs.classification(2)
COUNTS = (10**9, 10**19, 1e19, 1e9, True, -1, float("nan"))
NUMBERS = (float("nan"), float("inf"), 1e300, 10**400, True)


def things(name):
    torch.manual_seed(0)
    learner = LEARNERS[name]().eval()
    return learner, learner(SUPPORT, SPEC)


def edited(path, change):
    """The file at ``path`` with other contents, and their digest."""
    tree, about = load_tree(path)
    change(tree, about)
    return save_tree(path, tree, about)


def numbers(description):
    """Every number in a description, as the dict that holds it, its key and whether it counts."""
    for key, value in description.items():
        if isinstance(value, dict):
            yield from numbers(value)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield description, key, isinstance(value, int)


@pytest.mark.parametrize("name", LEARNERS)
def test_every_number_of_a_learner_is_bounded_before_it_is_built(name):
    learner = LEARNERS[name]()
    tensors = list(learner.state_dict().values())
    for place, key, counts in numbers(description := describe(learner)):
        right = place[key]
        for wrong in COUNTS if counts else NUMBERS:
            place[key] = wrong
            with pytest.raises((ValueError, RuntimeError)):  # of torch, for -1
                build_empty(description, tensors)
        place[key] = right
    assert describe(build_empty(description, tensors)) == description


@pytest.mark.parametrize("kind", ["learner", "predictor"])
def test_a_file_that_asks_for_more_than_it_holds_is_refused(kind, tmp_path):
    thing = things("in_context")[kind == "predictor"]
    path = qs.save(thing, tmp_path / "file")
    right = path.read_bytes()
    for key, wrong in (("layers", 10**9), ("layers", 9_999), ("heads", 9_999), ("size", 8_000)):
        edited(path, lambda _, about, k=key, w=wrong: about["learner"].update({k: w}))
        with pytest.raises(ValueError, match=rf"^{path}: not a file .*damaged"):
            qs.load(path)
        path.write_bytes(right)
    edited(path, lambda _, about: about["learner"]["backbone"].update(hidden=[5] * 20_000))
    with pytest.raises(ValueError, match=rf"^{path}: .*more layers than its \d+ tensors belong to"):
        qs.load(path)


def test_a_large_count_loads_where_a_tensor_is_as_large(tmp_path):
    learner = qs.Prototypical(qs.backbones.MLP(20_000, (2,)))
    assert qs.load(qs.save(learner, tmp_path / "file")).backbone.in_features == 20_000
    with pytest.raises(ValueError, match=r"save: .*slots must be at most 10000"):
        qs.save(qs.MANN(backbone(), 2, 4, 20_000, 4), tmp_path / "mann")


WRONG_STATES = {
    "nothing": lambda state: state.clear(),
    "a missing entry": lambda state: state.pop("prototypes"),
    "another shape": lambda state: state.update(prototypes=torch.zeros(2, 4)),
    "more classes": lambda state: state.update(prototypes=torch.zeros(3, 5)),
    "no classes": lambda state: state.update(prototypes=torch.zeros(0, 5)),
    "another type": lambda state: state.update(prototypes=torch.zeros(2, 5).double()),
    "a number": lambda state: state.update(prototypes=5),
    "NaN": lambda state: state["prototypes"].fill_(torch.nan),
    "infinity": lambda state: state["prototypes"][0].fill_(torch.inf),
}


@pytest.mark.parametrize("wrong", WRONG_STATES)
def test_a_state_that_does_not_fit_the_learner_is_refused_on_loading(wrong, tmp_path):
    path = qs.save(things("prototypical")[1], tmp_path / "file")
    edited(path, lambda tree, _: WRONG_STATES[wrong](tree["state"]))
    with pytest.raises(ValueError, match=rf"^{path}: "):
        qs.load(path)


@pytest.mark.parametrize("rows", [True, False], ids=["rows known", "rows of the backbone"])
def test_a_predictor_that_cannot_predict_is_not_saved(rows, tmp_path):
    predictor = things("prototypical")[1]
    wrong = qs.Predictor(predictor.learner, {}, SPEC, {}, predictor.no_rows if rows else None)
    with pytest.raises(ValueError, match=r"save: .*its state does not give predictions"):
        qs.save(wrong, tmp_path / "file")
    predictor.state["prototypes"].detach()[0] = torch.nan
    with pytest.raises(ValueError, match=r"save: .*state\.prototypes has numbers that are NaN"):
        qs.save(predictor, tmp_path / "file")
    assert not any(tmp_path.iterdir())


def test_a_row_of_any_size_is_tried_without_its_memory(tmp_path):
    """Its 10**12 numbers would not fit; shapes and types alone are enough to refuse a state."""
    learner = qs.Prototypical(qs.backbones.Conv4(2, image_size=2**4, flat=True))
    path = qs.save(learner(qs.examples(torch.rand(2, 1, 16, 16), [0, 1]), SPEC), tmp_path / "file")
    edited(path, lambda tree, _: tree.update(no_rows=torch.zeros(0, 1, 10**6, 10**6)))
    with pytest.raises(ValueError, match="its state does not give predictions"):
        qs.load(path)


def test_every_flipped_bit_is_noticed(tmp_path):
    """In the digest's own digits too; only spaces at the end of the header mean nothing."""
    path = qs.save(things("prototypical")[0], tmp_path / "file")
    right, flips = path.read_bytes(), 0
    for place in range(0, len(right), 7):
        changed = bytearray(right)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        if bytes(changed[:8]) == right[:8] and right[place : place + 1] != b" ":
            flips += 1
            with pytest.raises(ValueError, match=rf"^{path}: "):
                load_tree(path)
    assert flips > 100


def test_a_tensor_is_used_once_and_no_tensor_is_left_over(tmp_path):
    from safetensors.torch import save_file

    from quickstudy.files import trees

    tensors = {"00000": torch.ones(3), "00001": torch.zeros(3)}
    for names in (["00000", "00000"], ["00000"], ["00000", "00001", "00002"]):
        tree = {"list": [{"tensor": name} for name in names]}
        header = json.dumps({"tree": tree, "about": {}})
        metadata = {"quickstudy": header, "sha256": trees._digest(header, tensors)}
        save_file(tensors, tmp_path / "file", metadata=metadata)
        with pytest.raises(ValueError, match=r"malformed|leaves out 1 of its tensors"):
            load_tree(tmp_path / "file")


def test_headers_are_bounded_when_written_and_when_read(tmp_path):
    with pytest.raises(
        ValueError, match=rf"needs a header of \d+ bytes, but at most {LARGEST_HEADER}"
    ):
        save_tree(tmp_path / "file", {}, {"info": "x" * LARGEST_HEADER})
    (tmp_path / "file").write_bytes((3 * LARGEST_HEADER).to_bytes(8, "little") + b"{}")
    with pytest.raises(ValueError, match=r"its header of \d+ bytes is too large"):
        load_tree(tmp_path / "file")


def test_files_of_earlier_versions_are_refused_with_the_reason(tmp_path):
    path = qs.save(things("prototypical")[0], tmp_path / "file")
    edited(path, lambda _, about: about.update(format="quickstudy learner 1"))
    with pytest.raises(ValueError, match=r"of this version \(format 'quickstudy learner 1'\)"):
        qs.load(path)


def test_mutated_files_are_refused_by_name_or_give_valid_results():
    few = {"prototypical", "mann", "own"}
    result = import_module("mutated_files").run(200, seed=0, names=few)
    assert not result["failures"]
    assert sum(result["counts"].values()) == 200


def test_a_refusal_inside_no_grad_leaves_gradients_on():
    @torch.no_grad()
    def many_layers():
        for _ in range(10_000):
            torch.zeros(1)

    with pytest.raises(ValueError, match="more layers than its 1 tensors"), BoundedCalls(1):
        many_layers()
    assert torch.is_grad_enabled()
