import json
import os
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import quickstudy as qs
from quickstudy.answers import Actions, Boxes, Classes, Labels, Pixels, Reals, Tokens
from quickstudy.base.atomic import write_atomically
from quickstudy.files.answers import build_answer, describe_answer
from quickstudy.files.registry import LEARNERS as REGISTERED
from quickstudy.files.registry import build, describe, resolve
from quickstudy.files.storage import load_with_info
from quickstudy.files.trees import load_tree, save_tree
from quickstudy.interfaces.runs.assemble import make_learner
from quickstudy.interfaces.runs.recipe import Recipe
from quickstudy.learners.gradient.meta_gradients import Implicit
from quickstudy.learners.metric.distances import cosine
from quickstudy.learners.transfer.linear_probe import logistic
from quickstudy.tasks.bandits import Bandit
from quickstudy.tasks.numbering import draw

LEARNERS = [
    qs.Prototypical(qs.backbones.Conv4(8, "running", image_size=16), distance=cosine, scale=7.0),
    qs.Prototypical(qs.backbones.ResNet12((4, 4, 8, 8), in_channels=1)),
    qs.LinearProbe(qs.backbones.Conv4(8, "support", image_size=16), head=logistic, l2=0.5),
    qs.MAML(qs.backbones.Conv4(8, image_size=16, outputs=3), steps=2, adapts=("head.*",)),
    qs.MAML(qs.backbones.MLP(256, (8,), outputs=3), 2, 0.1, Implicit(1.5)),
    qs.MAMLPlusPlus(qs.backbones.MLP(256, (8,), outputs=3)),
]


@pytest.mark.parametrize("learner", LEARNERS, ids=lambda m: type(m).__name__)
def test_a_predictor_loads_without_its_code_or_learner(learner, classes, tmp_path):
    task = draw(qs.episodes(classes, 3, 2, 2), 0, 0)
    predictor = learner.eval()(task.support, task.spec)
    path = qs.save(predictor, tmp_path / "predictor.safetensors")
    loaded = qs.load(path)
    assert loaded(task.query.inputs).equal(predictor(task.query.inputs))
    assert loaded.spec == predictor.spec


FITTED = [
    name for name, card in REGISTERED.items()
    if card.family in ("transfer", "domains")
    and {Classes, Reals} & set(resolve("learner", name, REGISTERED).answers)
]  # fmt: skip
CHEAPER = {"tradaboost": {"rounds": 3}, "tradaboost_r2": {"steps": 2, "rounds": 3, "folds": 2}}


@pytest.mark.parametrize("name", FITTED)
def test_what_a_learner_fitted_in_float64_loads_beside_a_network_in_float32(name, tmp_path):
    options = CHEAPER.get(name, {})
    recipe = Recipe(learner=name, channels=4, ways=3, train_ways=3, shots=2, options=options)
    learner = make_learner(recipe, (1, 16, 16)).eval()
    inputs = torch.rand(9, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    targets, spec = torch.arange(9) % 3, qs.classification(3)
    if not issubclass(Classes, learner.answers):
        targets, spec = targets[:, None].float(), qs.regression(1)
    predictor = learner(qs.examples(inputs, targets), spec)
    loaded = qs.load(qs.save(predictor, tmp_path / "p.safetensors"))
    assert torch.equal(loaded(inputs), predictor(inputs))


@pytest.mark.parametrize("learner", LEARNERS, ids=lambda m: type(m).__name__)
def test_a_description_is_json_and_builds_the_same_learner(learner):
    description = json.loads(json.dumps(describe(learner)))
    rebuilt = build(description)
    assert describe(rebuilt) == describe(learner)
    shapes = {k: v.shape for k, v in learner.state_dict().items()}
    assert {k: v.shape for k, v in rebuilt.state_dict().items()} == shapes


def test_a_learner_loads_with_its_info(tmp_path):
    learner = LEARNERS[0]
    qs.save(learner, tmp_path / "learner.safetensors", {"shape": [1, 16, 16]})
    loaded, info = load_with_info(tmp_path / "learner.safetensors")
    assert info == {"shape": [1, 16, 16]}
    assert all(v.equal(learner.state_dict()[k]) for k, v in loaded.state_dict().items())


def test_a_users_own_backbone_needs_the_learner_to_load(tmp_path, classes):
    learner = qs.Prototypical(nn.Sequential(nn.Flatten(), nn.Linear(256, 4)))
    task = draw(qs.episodes(classes, 3, 2, 2), 0, 0)
    path = qs.save(learner(task.support, task.spec), tmp_path / "p.safetensors")
    with pytest.raises(ValueError, match="your own class"):
        qs.load(path)
    again = qs.Prototypical(nn.Sequential(nn.Flatten(), nn.Linear(256, 4)))
    loaded = qs.load(path, learner=again)
    expected = learner(task.support, task.spec)(task.query.inputs)
    assert loaded(task.query.inputs).equal(expected)
    path = qs.save(learner, tmp_path / "learner.safetensors")
    with pytest.raises(ValueError, match="your own class"):
        qs.load(path)
    other = qs.Prototypical(nn.Sequential(nn.Flatten(), nn.Linear(256, 4)))
    loaded = qs.load(path, learner=other)
    assert loaded(task.support, task.spec)(task.query.inputs).equal(expected)


def test_a_file_cannot_name_foreign_code():
    with pytest.raises(ValueError, match="unknown"):
        build({"name": "os:system"})
    with pytest.raises(ValueError, match="unknown"):
        build({"function": "eval"})


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"\xff" * 4096, b"\x08" + b"\0" * 7 + b"{}      "]
)
def test_files_without_a_predictor_are_refused(content, tmp_path):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"bad\.safetensors: not a file that quickstudy wrote"):
        qs.load(path)


def test_other_safetensors_and_truncated_files_are_refused(tmp_path):
    other = tmp_path / "other.safetensors"
    save_file({"a": torch.zeros(3)}, other)
    with pytest.raises(ValueError, match="not a file that quickstudy wrote"):
        qs.load(other)
    tree = save_tree(tmp_path / "tree.safetensors", {"a": torch.arange(100)}, {"format": "x"})
    with pytest.raises(ValueError, match="holds neither"):
        qs.load(tree)
    tree.write_bytes(tree.read_bytes()[:-9])
    with pytest.raises(ValueError, match="damaged"):
        load_tree(tree)
    with pytest.raises(FileNotFoundError, match="no such file"):
        qs.load(tmp_path / "nothing")


def test_trees_load_as_they_were_saved(tmp_path):
    shared = torch.arange(6.0).reshape(2, 3)
    tree = {"a": [shared, shared.T], "b": (torch.tensor(True), {"c": 1.5, "d": None}), "e": {}}
    loaded, about = load_tree(save_tree(tmp_path / "t", tree, {"x": [1, 2]}))
    assert about == {"x": [1, 2]}
    assert loaded["a"][1].equal(shared.T)
    assert isinstance(loaded["b"], tuple)
    assert loaded["b"][1] == {"c": 1.5, "d": None}
    assert loaded["e"] == {}


def test_files_have_the_usual_permissions(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    written = write_atomically(tmp_path / "f", b"")
    assert written.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_number_types_are_kept(tmp_path):
    support = qs.examples(torch.randn(6, 4), [0, 1, 2] * 2)
    support = support._replace(inputs=support.inputs.double(), weights=support.weights.double())
    learner = qs.Prototypical(qs.backbones.MLP(4)).double()
    predictor = learner(support, qs.classification(3))
    path = qs.save(predictor, tmp_path / "p")
    for given in (None, qs.Prototypical(qs.backbones.MLP(4))):
        found = qs.load(path, given)(support.inputs)
        torch.testing.assert_close(found, predictor(support.inputs), rtol=1e-12, atol=1e-12)


def test_saving_and_loading_take_no_random_numbers(tmp_path):
    before = torch.get_rng_state()
    qs.load(qs.save(LEARNERS[0], tmp_path / "learner"))
    assert torch.get_rng_state().equal(before)


def test_a_changed_backbone_is_refused(tmp_path):
    learner = qs.Prototypical(qs.backbones.MLP(4))
    learner.backbone.layers[1] = nn.GELU()
    with pytest.raises(ValueError, match=r"was changed after it was made.*GELU"):
        describe(learner)
    support = qs.examples(torch.randn(4, 4), [0, 1, 0, 1])
    path = qs.save(learner(support, qs.classification(2)), tmp_path / "p")
    with pytest.raises(ValueError, match="changed after it was made"):
        qs.load(path)


MLP_OF = {"name": "mlp", "in_features": 4, "hidden": [5], "outputs": None}
WRONG_LEARNERS = [
    5,
    "prototypical",
    {"name": "prototypical"},
    {"name": ["prototypical"]},
    {"name": "conv5"},
    MLP_OF,
    {"name": "prototypical", "backbone": 5},
    {"name": "prototypical", "backbone": MLP_OF, "distance": "cosine"},
    {"name": "prototypical", "backbone": MLP_OF, "scale": "abc"},
    {"name": "prototypical", "backbone": MLP_OF, "more": 1},
    {"name": "prototypical", "backbone": MLP_OF | {"hidden": [6]}},
    {"name": "prototypical", "backbone": MLP_OF | {"hidden": [10**12]}},
    {"name": "prototypical", "backbone": MLP_OF | {"hidden": [10**40]}},
    {"name": "prototypical", "backbone": MLP_OF | {"hidden": [-1]}},
]


def edited(path, **about):
    """The file of a good predictor, in which parts of its description are replaced."""
    learner = qs.Prototypical(qs.backbones.MLP(4, (5,)))
    support = qs.examples(torch.randn(4, 4), [0, 1, 0, 1])
    tree, found = load_tree(qs.save(learner(support, qs.classification(2)), path))
    return save_tree(path, tree, found | about)


@pytest.mark.parametrize("learner", WRONG_LEARNERS)
def test_a_header_with_a_wrong_learner_is_refused(learner, tmp_path):
    with pytest.raises(ValueError, match="damaged"):
        qs.load(edited(tmp_path / "p", learner=learner))


WRONG_ANSWERS: list[Any] = [
    "classes", {}, {"kind": "classes"}, {"kind": "classes", "ways": "2"},
    {"kind": "classes", "ways": 2, "more": 1}, {"kind": "nothing"}, {"kind": ["classes"]},
    {"kind": "reals", "d": 2, "missing": {"kind": "classes", "ways": 2}},
    {"kind": "bandit", "arms": 2}, {"kind": "actions", "world": 5},
]  # fmt: skip


@pytest.mark.parametrize(
    "spec", [None, {}, *({"answer": answer, "name": ""} for answer in WRONG_ANSWERS)]
)
def test_a_header_with_a_wrong_spec_is_refused(spec, tmp_path):
    assert qs.load(edited(tmp_path / "good")).spec.outputs == 2
    with pytest.raises(ValueError, match="damaged"):
        qs.load(edited(tmp_path / "p", spec=spec))
    with pytest.raises(ValueError, match="damaged"):
        qs.load(edited(tmp_path / "p", info=None))


@pytest.mark.parametrize(
    "header",
    [
        "[]",
        "{}",
        '{"tree": 1, "about": {}}',
        '{"tree": {"tensor": "00009"}, "about": {}}',
        '{"tree": {"dict": [[[], {"value": 1}]]}, "about": {}}',
        '{"tree": {"value": 1}, "about": 3}',
        '{"tree": ' + '{"list": [' * 5000 + "]}" * 5000 + ', "about": {}}',
    ],
)
def test_a_malformed_header_is_refused(header, tmp_path):
    save_file({"00000": torch.zeros(3)}, tmp_path / "p", metadata={"quickstudy": header})
    with pytest.raises(ValueError, match="damaged"):
        load_tree(tmp_path / "p")


def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path, monkeypatch):
    path = write_atomically(tmp_path / "f", b"old")

    def full(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def _conv4(**options):
    return qs.backbones.Conv4(4, image_size=16, **options)


EXPORTED = {  # one learner or two of each family; exporting takes seconds
    "prototypical": lambda: qs.Prototypical(_conv4(norm="running"), distance=cosine, scale=7.0),
    "relation": lambda: qs.Relation(_conv4(pools=2, flat=False), width=8),
    "maml": lambda: qs.MAML(_conv4(outputs=3, norm="support"), rate=0.1),
    "conditional neural process": lambda: qs.ConditionalNeuralProcess(_conv4(), size=8),
    "meta networks": lambda: qs.MetaNetworks(_conv4(), outputs=3, hidden=4),
    "linear probe": lambda: qs.LinearProbe(_conv4()),
}


@pytest.mark.parametrize("name", EXPORTED)
def test_a_predictor_exports_to_onnx_for_any_number_of_rows(
    name, tmp_path, classes, caplog, recwarn
):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    task = draw(qs.episodes(classes, 3, 2, 3), 0, 0)
    predictor = EXPORTED[name]().eval()(task.support, task.spec)
    predictor = replace(predictor, info={"names": ["a", "b", "c"]})
    path = qs.export(predictor, tmp_path / "p.onnx", task.query.inputs[:3])
    assert "torchvision" not in caplog.text
    assert not [each for each in recwarn if issubclass(each.category, FutureWarning)]
    session = onnxruntime.InferenceSession(path)
    info = session.get_modelmeta().custom_metadata_map["info"]
    assert json.loads(info) == {"names": ["a", "b", "c"]}
    for rows in (task.query.inputs[:1], task.query.inputs[:7]):
        (found,) = session.run(None, {"inputs": rows.numpy()})
        expected = predictor(rows).detach().numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["HardSharing", "SingleTask", "MMoE"])
def test_a_task_known_by_name_exports_with_its_own_head(name, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    learner = getattr(qs, name)(qs.backbones.MLP(4, (6,)), {"price": 2, "kind": 3}).eval()
    with torch.no_grad():
        for parameter in learner.parameters():  # heads may start at zero
            parameter.add_(0.3 * torch.randn_like(parameter))
    x = torch.randn(5, 4)
    predictor = learner(qs.examples(x, torch.randn(5, 2)), qs.regression(2, name="price"))
    session = onnxruntime.InferenceSession(qs.export(predictor, tmp_path / "p.onnx", x[:3]))
    for rows in (x[:1], x):
        (found,) = session.run(None, {"inputs": rows.numpy()})
        np.testing.assert_allclose(found, predictor(rows).detach(), rtol=1e-4, atol=1e-4)


class Detector(nn.Module):
    """A dict of inputs -> a dict of predictions, in which no input can stand for another."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(3, 12)

    def forward(self, inputs):
        slots = self.net(inputs["z"] / inputs["a"].exp()).unflatten(-1, (2, 6))
        return {"logits": slots[..., 4:], "boxes": slots[..., :4].sigmoid()}


def test_a_predictor_of_trees_exports_with_a_name_for_each_leaf(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    inputs = {"z": torch.randn(4, 3), "a": torch.randn(4, 1)}
    targets = {"boxes": torch.rand(4, 1, 4), "classes": torch.full((4, 1), -1)}
    predictor = qs.MAML(Detector(), 1, 0.1)(qs.examples(inputs, targets), qs.detection(1))
    session = onnxruntime.InferenceSession(qs.export(predictor, tmp_path / "p.onnx", inputs))
    new = {"z": torch.randn(7, 3), "a": torch.randn(7, 1)}
    names = [output.name for output in session.get_outputs()]
    found = session.run(names, {f"inputs.{name}": leaf.numpy() for name, leaf in new.items()})
    expected = {f"predictions.{name}": leaf for name, leaf in predictor(new).items()}
    assert set(names) == set(expected)
    for name, value in zip(names, found, strict=True):
        np.testing.assert_allclose(value, expected[name].detach(), rtol=1e-4, atol=1e-5)


class FixingRows(nn.Module):
    def forward(self, inputs):
        return inputs.flatten(1)[:, :4] + torch.zeros(len(inputs), 4)


@pytest.mark.parametrize(
    ("learner", "message"),
    [
        (qs.Prototypical(FixingRows()), "fixes it at 3.*shape"),
        (qs.MANN(qs.backbones.MLP(256, (4,)), 3, hidden=4, slots=8, width=4), "MANN.*aten.sort"),
    ],
    ids=["rows fixed", "no such operation"],
)
def test_predictors_that_onnx_cannot_express_are_refused(learner, message, tmp_path, classes):
    pytest.importorskip("onnxscript")
    task = draw(qs.episodes(classes, 3, 2, 2, shuffled=True), 0, 0)
    predictor = learner.eval()(task.support, task.spec)
    with pytest.raises(ValueError, match=message):
        qs.export(predictor, tmp_path / "p.onnx", task.query.inputs[:3])
    with pytest.raises(ValueError, match="at least 2 rows"):
        qs.export(predictor, tmp_path / "p.onnx", task.query.inputs[:1])
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "answer",
    [
        Classes(5), Reals(2), Reals(3, missing=True), Labels(4), Pixels(3), Pixels(3, True),
        Boxes(2), Tokens(9, before="before", start=1, end=2), Actions(Bandit(3)),
    ],
    ids=lambda answer: answer.kind,
)  # fmt: skip
def test_every_answer_is_built_from_its_description(answer):
    assert build_answer(json.loads(json.dumps(describe_answer(answer)))) == answer


def test_a_spec_with_own_functions_is_given_to_load(tmp_path):
    def absolute(predictions, targets):
        return (predictions - targets).abs()

    spec = qs.spec(2, absolute)
    learner = qs.MAML(qs.backbones.MLP(4, outputs=2), rate=0.1)
    predictor = learner(qs.examples(torch.randn(3, 4), torch.randn(3, 2)), spec)
    path = qs.save(predictor, tmp_path / "p")
    with pytest.raises(ValueError, match=r"load\(path, spec=...\)"):
        qs.load(path)
    loaded = qs.load(path, spec=spec)
    inputs = torch.randn(5, 4)
    assert loaded(inputs).equal(predictor(inputs))
    assert loaded.spec == spec
    other = qs.save(learner(qs.examples(torch.randn(3, 4), [0, 1, 0]), qs.classification(2)),
                    tmp_path / "q")  # fmt: skip
    with pytest.raises(ValueError, match="was made for"):
        qs.load(other, spec=spec)


def mae(predictions, targets):
    return (predictions - targets).abs().mean(-1)


@dataclass(frozen=True)
class Huber(Reals):
    delta: float = 1.0


@dataclass(frozen=True)
class OwnWorld:
    """A world of the user's own."""

    actions: int = 3
    horizon: int = 1


OWN = {
    "functions": qs.spec(3, mae, name="a"),
    "a class": qs.TaskSpec(Huber(3), "a"),
    "a world": qs.TaskSpec(Actions(OwnWorld()), "a"),
}


@pytest.mark.parametrize("kind", OWN)
def test_an_answer_with_own_code_loads_with_the_spec_it_was_made_with(kind, tmp_path):
    learner = qs.LinearProbe(qs.backbones.MLP(4)).eval()
    state = learner(qs.examples(torch.randn(4, 4), torch.randn(4, 3)), qs.regression(3)).state
    path = qs.save(qs.Predictor(learner, state, OWN[kind]), tmp_path / "p")
    assert qs.load(path, spec=OWN[kind]).spec == OWN[kind]
    for given in (None, learner):
        with pytest.raises(ValueError, match="code of your own"):
            qs.load(path, given)
    others = [
        qs.classification(7), qs.regression(3, name="a"), qs.TaskSpec(OWN[kind].answer),
        qs.spec(2, mae, name="a"), qs.spec(3, mae, mae, name="a"),
        *(spec for other, spec in OWN.items() if other != kind),
    ]  # fmt: skip
    for other in others:
        with pytest.raises(ValueError, match=r"was made for the spec .* Give the spec"):
            qs.load(path, learner, other)
