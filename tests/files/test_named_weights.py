"""Files name pretrained weights with their digest instead of copying them."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
import torch
from torch import nn

import quickstudy as qs
from quickstudy.backbones.pretrained.registry import CARDS
from quickstudy.backbones.pretrained.source import PretrainedSource
from quickstudy.core import Task
from quickstudy.files import sources
from quickstudy.files.trees import load_tree, save_tree
from quickstudy.learners.transfer.heads import logistic

INPUTS = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
SUPPORT, SPEC = qs.examples(INPUTS, [0, 1, 0, 1, 0, 1]), qs.classification(2)


class StandIn(nn.Module):
    """A network with a norm, a saved buffer and one that is not saved, as real ones have."""

    features = 64

    def __init__(self, seed):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.conv = nn.Conv2d(3, 64, 3)
            self.wide = nn.Linear(64, 64)
        self.register_buffer("mean", torch.full((3, 1, 1), 0.5))
        self.register_buffer("factor", torch.tensor(2.0), persistent=False)

    def forward(self, x):
        return self.wide(self.conv(self.factor * (x - self.mean)).relu().mean((2, 3)))


SEEDS = {"stand-in": 1, "other": 2}


def pretrained(
    name: str, *, size: int = 8, frozen: bool = True, download: bool = False
) -> nn.Module:
    if name not in SEEDS:
        raise ValueError(f"pretrained: {name!r} is unknown. Valid names: {', '.join(SEEDS)}.")
    network = StandIn(SEEDS[name])
    digest = hashlib.sha256(name.encode()).hexdigest()
    options = {} if size == 8 else {"size": size}
    network.pretrained_source = PretrainedSource(name, digest, options)
    return qs.frozen(network) if frozen else network.eval()


@pytest.fixture(autouse=True)
def stand_in(monkeypatch):
    monkeypatch.setattr(sources, "_maker", lambda: pretrained)
    sources._empty_network.cache_clear()


LEARNERS = {
    "prototypical": lambda: qs.Prototypical(pretrained("stand-in")),
    "ridge": lambda: qs.LinearProbe(pretrained("stand-in")),
    "logistic": lambda: qs.LinearProbe(pretrained("stand-in"), head=logistic),
    "in_context": lambda: qs.InContext(pretrained("stand-in"), size=8, layers=1, heads=2),
    "double": lambda: qs.Prototypical(pretrained("stand-in").double()),
    "half": lambda: qs.Prototypical(pretrained("stand-in").bfloat16()),
    "in training mode": lambda: qs.Prototypical(pretrained("stand-in").requires_grad_()),
    "not frozen": lambda: qs.Prototypical(pretrained("stand-in", frozen=False)),
    "partly frozen": lambda: qs.MAML(partly_frozen()),
}


def partly_frozen():
    """The last layer alone adapts."""
    network = pretrained("stand-in", frozen=False)
    network.conv.requires_grad_(False)
    return network


def own():
    """A learner whose backbone is the user's own code around a pretrained network."""
    torch.manual_seed(0)
    return qs.Prototypical(nn.Sequential(pretrained("stand-in"), nn.Linear(64, 4)))


def tensors_in(path):
    tree, _ = load_tree(path)
    return tree.get("learner", tree)


def edited(path, change):
    tree, about = load_tree(path)
    change(tree, about)
    save_tree(path, tree, about)


@pytest.mark.parametrize("name", LEARNERS)
def test_a_predictor_is_as_before_without_the_weights_in_its_file(name, tmp_path):
    learner = LEARNERS[name]().eval()
    predictor = learner(SUPPORT, SPEC)
    path = qs.save(predictor, tmp_path / "p.safetensors")
    assert not [each for each in tensors_in(path) if each.startswith("backbone.")]
    loaded = qs.load(path)
    assert loaded(INPUTS).equal(predictor(INPUTS))
    assert loaded.learner.train().backbone.training == learner.train().backbone.training
    assert loaded.learner.eval().backbone.pretrained_source == learner.backbone.pretrained_source
    assert {n: p.requires_grad for n, p in loaded.learner.named_parameters()} == {
        n: p.requires_grad for n, p in learner.named_parameters()
    }
    assert not any(t.is_meta for t in [*loaded.learner.parameters(), *loaded.learner.buffers()])
    again = qs.load(qs.save(loaded, tmp_path / "again.safetensors"))
    assert again(INPUTS).equal(predictor(INPUTS))


def test_only_the_tensors_that_were_trained_are_in_the_file(tmp_path):
    learner = LEARNERS["in training mode"]()
    with torch.no_grad():
        learner.backbone.wide.weight[3, 5] += 1e-3
    path = qs.save(learner, tmp_path / "learner.safetensors")
    assert [*tensors_in(path)] == ["backbone.wide.weight"]
    loaded = qs.load(path)
    assert all(t.equal(learner.state_dict()[n]) for n, t in loaded.state_dict().items())


def test_a_setting_that_was_changed_is_saved_as_it_is(tmp_path):
    network = qs.pretrained("efficientnet-lite0", size=32)
    network.size = 40
    learner = qs.SimpleShot(network)
    pictures = torch.rand(2, 3, 48, 48)
    predictor = learner(qs.examples(pictures, [0, 1]), SPEC)
    with pytest.MonkeyPatch.context() as real:
        real.setattr(sources, "_maker", lambda: qs.pretrained)
        loaded = qs.load(qs.save(predictor, tmp_path / "resized.safetensors"))
    assert loaded.learner.backbone.size == 40
    assert torch.equal(loaded(pictures), predictor(pictures))


def test_a_learner_of_own_code_loads_into_one_with_the_same_weights(tmp_path):
    learner = own()
    path = qs.save(learner, tmp_path / "learner.safetensors")
    assert sorted(tensors_in(path)) == ["backbone.1.bias", "backbone.1.weight"]
    with torch.no_grad():
        (given := own()).backbone[0].wide.weight.zero_()  # is put right by loading
    loaded = qs.load(path, learner=given)
    assert all(t.equal(learner.state_dict()[n]) for n, t in loaded.state_dict().items())
    other = own()
    other.backbone[0] = pretrained("other")
    with pytest.raises(ValueError, match=rf"^{path}: .*'stand-in' .*but 'other'"):
        qs.load(path, learner=other)
    other.backbone[0] = qs.frozen(StandIn(1))
    with pytest.raises(ValueError, match=rf"^{path}: .*stand-in"):
        qs.load(path, learner=other)


def test_a_file_of_the_earlier_format_loads(tmp_path):
    learner = qs.Prototypical(qs.backbones.MLP(4, (3,)))
    support = qs.examples(torch.eye(4), [0, 1, 0, 1])
    predictor = learner(support, SPEC)
    for thing, earlier in ((learner, "learner 2"), (predictor, "predictor 3")):
        path = qs.save(thing, tmp_path / "file.safetensors")

        def as_before(_, about, earlier=earlier):
            about.pop("pretrained")
            about["format"] = f"quickstudy {earlier}"

        edited(path, as_before)
        loaded = qs.load(path)
        made = loaded if thing is predictor else loaded(support, SPEC)
        assert made(torch.eye(4)).equal(predictor(torch.eye(4)))


HOSTILE = {
    "a name that does not exist": ({"pretrained": "stand-out"}, "'stand-out' is unknown"),
    "a name that is no text": ({"pretrained": 7}, "must have a name"),
    "the digest of something else": ({"digest": "0" * 64}, "SHA-256 0000000000000000…, but those"),
    "a digest that is none": ({"digest": "no"}, "must be a SHA-256"),
    "no digest": ({"digest": None}, "must be a SHA-256"),
    "an unknown option": ({"options": {"trust_remote_code": True}}, "takes no 'trust_remote_code'"),
    "a download": ({"options": {"download": True}}, "takes no 'download'"),
    "an option of a wrong type": ({"options": {"size": "large"}}, "takes no 'size'='large'"),
    "an option that is too large": ({"options": {"size": 1e300}}, "at most 1e"),
    "an option that fills the memory": ({"options": {"size": 9_999}}, "at most 2048"),
    "an option of the caller": ({"options": {"frozen": False}}, "takes no 'frozen'"),
    "other options": ({"options": {"size": 9}}, "here"),
    "no options": ({"options": None}, "must have a name and options"),
    "other weights": (
        {"pretrained": "other", "digest": hashlib.sha256(b"other").hexdigest()}, "'other' .* here"
    ),
}  # fmt: skip


@pytest.mark.parametrize("where", ["learner", "list"])
@pytest.mark.parametrize("what", HOSTILE)
def test_a_file_that_names_other_weights_is_refused(what, where, tmp_path):
    path = qs.save(LEARNERS["ridge"]()(SUPPORT, SPEC), tmp_path / "p.safetensors")
    change, message = HOSTILE[what]

    def spoil(_, about):
        place = about["learner"]["backbone"]
        (place if where == "learner" else about["pretrained"]["backbone"]).update(change)

    edited(path, spoil)
    expected = message if where == "learner" and what not in ("other weights",) else "backbone has"
    with pytest.raises(ValueError, match=rf"^{path}: .*{expected}"):
        qs.load(path)


LISTS = {
    "nothing": {},
    "no dict": [],
    "no entries": {"backbone": 3},
    "a path that is not there": {"head": {"pretrained": "stand-in", "digest": "", "options": {}}},
}


@pytest.mark.parametrize("found", LISTS.values(), ids=LISTS)
def test_a_damaged_list_of_pretrained_networks_is_refused(found, tmp_path):
    path = qs.save(LEARNERS["ridge"]()(SUPPORT, SPEC), tmp_path / "p.safetensors")
    edited(path, lambda _, about: about.update(pretrained=found))
    with pytest.raises(ValueError, match=rf"^{path}: "):
        qs.load(path)


@pytest.mark.parametrize("dtype", ["int64", "nonsense", 3, "Tensor", "float64"])
def test_a_wrong_dtype_of_pretrained_weights_is_refused(dtype, tmp_path):
    path = qs.save(LEARNERS["ridge"]()(SUPPORT, SPEC), tmp_path / "p.safetensors")
    edited(path, lambda _, about: about["pretrained"]["backbone"].update(dtype=dtype))
    with pytest.raises(ValueError, match=rf"^{path}: .*(dtype|precision)"):
        qs.load(path)


def test_a_missing_package_is_named_with_the_file_and_the_command(tmp_path, monkeypatch):
    path = qs.save(LEARNERS["ridge"]()(SUPPORT, SPEC), tmp_path / "p.safetensors")

    def absent(name: str, *, frozen: bool = True) -> nn.Module:
        raise ImportError(f"pretrained: {name} needs a package. pip install 'quickstudy[vision]'.")

    monkeypatch.setattr(sources, "_maker", lambda: absent)
    with pytest.raises(ImportError, match=rf"^{path}: .*pip install 'quickstudy\[vision\]'"):
        qs.load(path)


def trained(steps, run, resume=False, learner=None):
    learner = learner or own()
    train = qs.tasks.fixed([Task(SUPPORT, SUPPORT, SPEC)] * 64)
    validation = qs.Validation(train, every=2, tasks=2)
    qs.fit(learner, train, steps, 2, run=run, resume=resume, progress=False,
           validation=validation, checkpoint_every=2)  # fmt: skip
    return learner


def test_a_checkpoint_names_frozen_weights_and_resumes_with_the_same_result(tmp_path):
    whole = trained(4, tmp_path / "whole")
    trained(2, tmp_path / "parts")
    tree, _ = load_tree(tmp_path / "parts" / "checkpoint.safetensors")
    assert sorted(tree["learner"]) == sorted(tree["best"])
    assert sorted(tree["best"]) == ["backbone.1.bias", "backbone.1.weight"]
    resumed = trained(4, tmp_path / "parts", resume=True)
    assert all(t.equal(whole.state_dict()[n]) for n, t in resumed.state_dict().items())
    other = own()
    other.backbone[0] = pretrained("other")
    with pytest.raises(ValueError, match="other"):
        trained(6, tmp_path / "parts", resume=True, learner=other)


def test_a_checkpoint_of_the_earlier_format_resumes(tmp_path):
    whole = trained(4, tmp_path / "whole")
    trained(2, tmp_path / "parts")
    path = tmp_path / "parts" / "checkpoint.safetensors"

    def as_before(tree, about):
        frozen = {f"backbone.0.{n}": t for n, t in pretrained("stand-in").state_dict().items()}
        tree["learner"] = {**frozen, **tree["learner"]}
        tree["best"] = {**frozen, **tree["best"]}
        about["format"] = "quickstudy checkpoint 4"
        about.pop("pretrained")

    edited(path, as_before)
    resumed = trained(4, tmp_path / "parts", resume=True)
    assert all(t.equal(whole.state_dict()[n]) for n, t in resumed.state_dict().items())


def test_a_network_without_gradients_is_made_frozen(monkeypatch, tmp_path):
    def without_gradients(name: str, *, frozen: bool = True) -> nn.Module:
        if not frozen:
            raise ValueError("has weights without gradient, so it cannot be trained")
        return pretrained(name)

    monkeypatch.setattr(sources, "_maker", lambda: without_gradients)
    monkeypatch.setitem(CARDS, "stand-in", replace(CARDS["minilm-int8"], name="stand-in"))
    predictor = qs.Prototypical(pretrained("stand-in"))(SUPPORT, SPEC)
    loaded = qs.load(qs.save(predictor, tmp_path / "a.safetensors"))
    assert torch.equal(loaded(INPUTS), predictor(INPUTS))
