"""Adapting to folders of pictures, and classifying files, without training first."""

from __future__ import annotations

import json
import unicodedata
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

import quickstudy as qs
from quickstudy.answers.specs import classification
from quickstudy.base.door import to_unit
from quickstudy.datasets.pictures import PictureFormat
from quickstudy.files.storage import load, save
from quickstudy.interfaces.cli import main
from quickstudy.interfaces.runs.adapting import adapt_folder
from quickstudy.interfaces.runs.folder import Run
from quickstudy.interfaces.runs.predicting import _files, predict_files
from quickstudy.interfaces.runs.recipe import Recipe
from quickstudy.tasks.order import in_mixed_order

SIDE = 28

pytestmark = [
    pytest.mark.filterwarnings("default:adapt. the predictor is no better:UserWarning"),
    pytest.mark.filterwarnings("default:predict. the predictor was adapted to:UserWarning"),
]


def drawing(kind: int, seed: int) -> np.ndarray:
    """(28, 28) uint8, light on dark: one to five bars, at a place that depends on ``seed``."""
    random = np.random.default_rng(seed)
    picture = np.zeros((SIDE, SIDE), np.uint8)
    top, left = random.integers(3, 6, 2)
    for bar in range(kind + 1):
        picture[top + 4 * bar : top + 4 * bar + 2, left : left + 18] = 255
    return picture


def write(top: Path, kinds: int, each: int, change=lambda picture: picture, first: int = 0) -> Path:
    """``each`` drawings in ``top / "kind K"`` for each of ``kinds``."""
    for kind in range(kinds):
        folder = top / f"kind {kind}"
        folder.mkdir(parents=True)
        for i in range(first, first + each):
            Image.fromarray(change(drawing(kind, 100 * kind + i))).save(folder / f"{i}.png")
    return top


def dark_on_light(picture: np.ndarray) -> np.ndarray:
    return 255 - picture


def photograph(picture: np.ndarray) -> np.ndarray:
    random = np.random.default_rng(int(picture.sum()))
    ramp = np.linspace(0, 120, SIDE)[:, None, None] + np.linspace(0, 60, SIDE)[:, None]
    return (ramp + random.integers(0, 70, (SIDE, SIDE, 3))).clip(0, 255).astype(np.uint8)


def make_run(path: Path, learner: qs.Learner, pictures: PictureFormat | None) -> Run:
    """A run whose training is left out."""
    run = Run.create(Recipe(device="cpu"), path)
    shape = (1, SIDE, SIDE)
    info = {"shape": shape, "data": "glyphs", "pictures": pictures and pictures.to_json()}
    save(learner, path / "learner.safetensors", info)
    return run


def trained_on(dark: bool = True, scale: float = 1.0) -> PictureFormat:
    rows = np.stack([drawing(k % 5, k)[None] for k in range(60)])
    unit = to_unit(torch.from_numpy(rows))
    found = PictureFormat.of(scale * (unit if dark else 1 - unit), "area")
    assert found is not None
    return found


@pytest.fixture(scope="module")
def prototypical() -> qs.Prototypical:
    torch.manual_seed(0)
    return qs.Prototypical(qs.backbones.Conv4(channels=8, image_size=SIDE, in_channels=1))


@pytest.fixture(scope="module")
def run(prototypical, tmp_path_factory) -> Run:
    return make_run(tmp_path_factory.mktemp("use") / "run", prototypical, trained_on())


def call(*words: str | Path) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def states(predictor: qs.Predictor) -> list[torch.Tensor]:
    return [value for _, value in sorted(predictor.state.items())]


@pytest.mark.parametrize("dark", [True, False], ids=["dark", "light"])
def test_drawings_on_either_background_give_the_same_predictor(prototypical, tmp_path, dark):
    run = make_run(tmp_path / "run", prototypical, trained_on(dark))
    light_ink = adapt_folder(run, write(tmp_path / "a", 3, 4), check=False)
    dark_ink = adapt_folder(run, write(tmp_path / "b", 3, 4, dark_on_light), check=False)
    for one, other in zip(states(light_ink), states(dark_ink), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    inverted = [light_ink.info["support"]["inverted"], dark_ink.info["support"]["inverted"]]
    assert inverted == ([0, 12] if dark else [12, 0])
    files = write(tmp_path / "q", 3, 2, first=50)
    light = write(tmp_path / "r", 3, 2, dark_on_light, first=50)
    torch.testing.assert_close(
        predict_files(dark_ink, [files]).probabilities,
        predict_files(dark_ink, [light]).probabilities, rtol=1e-4, atol=1e-5,
    )  # fmt: skip


def test_the_file_of_a_predictor_says_how_pictures_are_made(run, tmp_path):
    out = tmp_path / "p.safetensors"
    folder = write(tmp_path / "a", 2, 3, dark_on_light)
    done = call("adapt", run.path, folder, "-o", out)
    assert done.exit_code == 0, done.output
    assert (
        "images grey, 28 × 28 pixels (area filter), 6 of 6 inverted since the learner was trained "
        "on a dark background" in done.output
    )
    info = load(out).info
    assert PictureFormat.from_json(info["pictures"]) == trained_on()
    assert info["names"] == ["kind 0", "kind 1"]
    files = sorted(folder.rglob("*.png"))
    together = json.loads(call("predict", out, folder, "--json").stdout)["predictions"]
    assert all(row["inverted"] for row in together)
    for file, row in zip(files, together, strict=True):  # each file by itself
        alone = json.loads(call("predict", out, file, "--json").stdout)["predictions"][0]
        assert alone["probabilities"] == pytest.approx(row["probabilities"], abs=1e-5)
    assert "6 of 6 inverted" in call("predict", out, folder).output


def test_inverting_can_be_chosen(run, tmp_path):
    folder = write(tmp_path / "a", 2, 3, dark_on_light)
    never = adapt_folder(run, folder, invert=False, check=False)
    assert never.info["support"]["inverted"] == 0
    assert not predict_files(never, [folder]).inverted.any()
    always = adapt_folder(run, write(tmp_path / "b", 2, 3), invert=True, check=False)
    assert always.info["support"]["inverted"] == 6
    done = call("adapt", run.path, folder, "--no-invert", "-o", tmp_path / "p.safetensors")
    assert "none inverted" in done.output


def test_values_are_made_like_those_of_training(prototypical, tmp_path):
    folder = write(tmp_path / "a", 2, 3)
    unit = make_run(tmp_path / "unit", prototypical, trained_on())
    wide = make_run(tmp_path / "wide", prototypical, trained_on(scale=255))
    pixels = [np.asarray(Image.open(file))[None] for file in sorted(folder.rglob("*.png"))]
    direct = qs.examples(np.stack(pixels).astype(np.float32), [0, 0, 0, 1, 1, 1])
    expected = prototypical(direct, classification(2)).state
    found = adapt_folder(wide, folder, check=False).state
    assert set(found) == set(expected)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-5)
    other = adapt_folder(unit, folder, check=False).state
    assert not all(found[name].equal(other[name]) for name in found)


def test_pictures_of_another_kind_are_warned_of(run, tmp_path):
    photographs = write(tmp_path / "a", 2, 3, photograph)
    with pytest.warns(
        UserWarning, match=r"adapt: the pictures in .* another kind .*shades"
    ) as seen:
        predictor = adapt_folder(run, photographs, check=False)
    assert predictor.info["support"]["differences"] in str(seen[0].message)
    with pytest.warns(UserWarning, match="predict: the pictures in the given files are of another"):
        predict_files(predictor, [photographs])
    drawings = write(tmp_path / "b", 2, 3, dark_on_light)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predict_files(adapt_folder(run, drawings, check=False), [drawings / "kind 0"])


def test_inputs_that_are_no_known_pictures_are_refused(prototypical, tmp_path):
    run = make_run(tmp_path / "run", prototypical, None)
    with pytest.raises(
        ValueError, match=r"inputs of shape \(1, 28, 28\), of which it is not known"
    ):
        adapt_folder(run, write(tmp_path / "a", 2, 2))


def test_sequence_learners_get_a_folder_in_mixed_order(tmp_path):
    torch.manual_seed(0)
    learner = qs.MANN(qs.backbones.MLP(SIDE * SIDE, hidden=(8,)), outputs=4)
    run = make_run(tmp_path / "run", learner, trained_on())
    folder = write(tmp_path / "a", 4, 3)
    pixels = [np.asarray(Image.open(file))[None] for file in sorted(folder.rglob("*.png"))]
    rows = qs.examples(np.stack(pixels), torch.arange(4).repeat_interleave(3))
    found = adapt_folder(run, folder, check=False)
    with torch.no_grad():
        mixed = learner(in_mixed_order(learner, rows), classification(4))(rows.inputs)
        by_class = learner(rows, classification(4))(rows.inputs)
        given = found(rows.inputs)
    torch.testing.assert_close(given, mixed, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(given, by_class, rtol=1e-3, atol=1e-4)


def test_adapting_checks_the_predictor_and_keeps_the_result(run, tmp_path):
    out, folder = tmp_path / "p.safetensors", write(tmp_path / "a", 3, 5)
    done = call("adapt", run.path, folder, "-o", out, "--json")
    assert done.exit_code == 0, done.output
    printed = json.loads(done.stdout)
    found = load(out).info["check"]
    assert printed["check"] == found
    assert printed["names"] == ["kind 0", "kind 1", "kind 2"]
    assert (found["rows"], found["method"], found["chance"]) == (15, "leave-one-out", 0.333333)
    assert found["interval"][0] <= found["accuracy"] <= found["interval"][1]
    text = call("adapt", run.path, folder, "-o", tmp_path / "q.safetensors").output
    assert f"check {found['summary']}" in text
    assert "nearest mean of raw inputs" in text
    assert "chance 33.3%" in text
    skipped = call("adapt", run.path, folder, "-o", tmp_path / "r.safetensors", "--no-check")
    assert "\ncheck " not in skipped.output
    assert "check" not in load(tmp_path / "r.safetensors").info


def test_sets_follow_from_the_check(run, tmp_path):
    out, folder = tmp_path / "p.safetensors", write(tmp_path / "a", 3, 5)
    done = call("adapt", run.path, folder, "-o", out, "--json")
    assert "calibration" not in json.loads(done.stdout)
    predictor, queries = load(out), write(tmp_path / "q", 3, 4, first=60)
    plain = predict_files(predictor, [queries])
    assert plain.sets is None
    found = predict_files(predictor, [queries], coverage=0.9)
    bound = qs.Calibration.from_json(predictor.info["calibration"]).bound(0.9)
    assert torch.equal(found.sets.contains, -found.probabilities.double().log() <= bound)
    printed = json.loads(call("predict", out, queries, "--coverage", "0.9", "--json").stdout)
    assert printed["coverage"] == 0.9
    assert [row["set"] for row in printed["predictions"]] == found.sets.named(found.names)
    text = call("predict", out, queries, "--coverage", "0.9").output
    assert "coverage 90% for images like those adapted to" in " ".join(text.split())
    for share, message in (
        ("0.99", "at least 99 tasks (or rows, where single rows were left out)"),
        ("1", "share between 0 and 1"),
    ):
        refused = call("predict", out, queries, "--coverage", share)
        assert refused.exit_code == 1
        assert message in " ".join(refused.output.split())
    few = adapt_folder(run, folder, check=False)
    with pytest.raises(ValueError, match=r"two images or more.*--no-check"):
        predict_files(few, [queries], coverage=0.9)


def test_one_picture_a_class_cannot_be_checked(run, tmp_path):
    done = call("adapt", run.path, write(tmp_path / "a", 3, 1), "-o", tmp_path / "p.safetensors")
    assert done.exit_code == 0
    assert "check impossible with one row in each class" in done.output
    assert load(tmp_path / "p.safetensors").info["check"]["accuracy"] is None


def test_a_predictor_that_is_no_better_than_chance_is_warned_of(run, tmp_path):
    """Classes that are the same drawings cannot be told apart."""
    for kind in ("a", "b"):
        write(tmp_path / kind, 1, 6)
        (tmp_path / kind / "kind 0").rename(tmp_path / f"kind {kind}")
        (tmp_path / kind).rmdir()
    done = call("adapt", run.path, tmp_path, "-o", tmp_path / "p.safetensors")
    assert "Warning: adapt: the predictor is no better than chance (50.0%)" in done.output


def test_a_folder_of_class_folders_is_scored(run, tmp_path):
    predictor = adapt_folder(run, write(tmp_path / "a", 3, 4), check=False)
    queries = write(tmp_path / "q", 3, 4, first=60)
    (queries / "kind 2" / "60.png").rename(queries / "kind 0" / "wrong.png")
    (queries / "elsewhere").mkdir()
    Image.fromarray(drawing(0, 7)).save(queries / "elsewhere" / "x.png")
    Image.fromarray(drawing(0, 7)).save(queries / "loose.png")
    result = predict_files(predictor, [queries])
    assert len(result.files) == 14
    assert result.other_folders == ["elsewhere"]
    counts = np.zeros((3, 3), int)
    for file, best in zip(result.files, result.probabilities.argmax(1).tolist(), strict=True):
        folder = Path(file).parent.name
        if folder.startswith("kind"):
            counts[int(folder[-1]), best] += 1
    values = json.loads(json.dumps(result.to_json()))["score"]
    assert values["confusion"] == {"names": predictor.info["names"], "counts": counts.tolist()}
    assert values["rows"] == 12
    assert values["accuracy"] == pytest.approx(counts.trace() / 12, abs=1e-6)
    assert values["chance"] == pytest.approx(5 / 12, abs=1e-6)
    save(predictor, tmp_path / "p.safetensors")
    text = call("predict", tmp_path / "p.safetensors", queries).output
    assert f"accuracy {100 * counts.trace() / 12:.1f}% (95% interval" in text
    assert "not scored folders without the name of a class: elsewhere" in text
    plain = predict_files(predictor, [queries / "kind 0"])
    assert plain.confusion is None
    assert plain.to_json()["score"] is None


def test_a_score_on_images_that_were_adapted_to_is_warned_of(run, tmp_path):
    folder = write(tmp_path / "a", 2, 4, photograph)
    predictor = adapt_folder(run, folder, check=False)
    write(tmp_path / "b", 2, 4)
    (tmp_path / "b" / "kind 0" / "same.png").write_bytes((folder / "kind 0/0.png").read_bytes())
    with pytest.warns(UserWarning, match="adapted to 1 of 9 images, so the accuracy is too high"):
        found = predict_files(predictor, [tmp_path / "b"])
    assert [Path(found.files[i]).name for i in found.adapted_to.nonzero()] == ["same.png"]
    predict_files(predictor, [tmp_path / "b" / "kind 0"])  # no accuracy, so no warning


def test_a_check_on_classes_that_were_trained_on_is_warned_of(run, tmp_path):
    split = {"train": {"kind 1": 9}, "val": {}, "test": {"kind 0": 9}}
    (run.path / "split.json").write_text(json.dumps(split))
    folder = write(tmp_path / "a", 2, 4)
    with pytest.warns(UserWarning, match=r"trained on 1 class \('kind 1'\) of the same name"):
        adapt_folder(run, folder)


def test_one_class_is_refused(run, tmp_path):
    with pytest.raises(ValueError, match=r"adapt: .*one class alone, 'kind 0'. Add a folder"):
        adapt_folder(run, write(tmp_path / "a", 1, 4))


@pytest.mark.parametrize("command", ["predict", "export"])
def test_a_learner_is_no_predictor(run, command, tmp_path):
    learner, _ = run.learner()
    file = save(learner, tmp_path / "learner.safetensors")
    done = call(command, file, *([tmp_path] if command == "predict" else []))
    assert f"Error: {command}: the file holds a learner, Prototypical" in done.output
    assert done.exit_code == 1


def test_hidden_pictures_in_folders_are_not_predicted(tmp_path):
    """Some systems keep a small copy, or a file of notes, beside each picture."""
    folder = write(tmp_path / ".shared" / "a", 1, 1)  # the folder itself may lie in a hidden one
    (shown,) = folder.rglob("*.png")
    for hidden in (shown.with_name(f"._{shown.name}"), folder / ".thumbnails" / shown.name):
        hidden.parent.mkdir(exist_ok=True)
        hidden.write_bytes(shown.read_bytes())
    assert [file for file, _ in _files([folder], trained_on())] == [shown]


def test_names_of_folders_are_compared_as_they_look(run, tmp_path):
    write(tmp_path / "a", 2, 2)
    write(tmp_path / "q", 2, 2, first=9)
    for top, form in (("a", "NFC"), ("q", "NFD")):  # as Linux and macOS write the same name
        (tmp_path / top / "kind 0").rename(tmp_path / top / unicodedata.normalize(form, "Ä"))
    predictor = adapt_folder(run, tmp_path / "a", check=False)
    result = predict_files(predictor, [tmp_path / "q"])
    assert result.confusion is not None
    assert result.confusion.rows == 4
    assert result.other_folders == []


@pytest.mark.parametrize(
    "change", [{"names": ["a"]}, {"names": 3}, {"invert": "yes"}, {"pictures": {"size": 3}}]
)
def test_damaged_facts_of_a_predictor_are_refused(run, tmp_path, change):
    folder = write(tmp_path / "a", 2, 2)
    predictor = adapt_folder(run, folder, check=False)
    file = save(predictor, tmp_path / "p.safetensors", change)
    with pytest.raises(ValueError, match=r"predict: the predictor distinguishes 2|pictures: "):
        predict_files(load(file), [folder])
