"""Drawings: what is given and asked, files of the user, and what is written for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import quickstudy as qs
from quickstudy.applications.drawing_baselines import MeanDrawing, NearestPixel
from quickstudy.applications.drawing_files import ink_of, read_partial
from quickstudy.applications.drawing_tasks import Completions, NewDrawings, places
from quickstudy.applications.generation import CONTEXT, LATENT, Generation
from quickstudy.base.skipped import SkippedInput
from quickstudy.datasets.images import ImageError
from quickstudy.tasks.numbering import generator
from quickstudy.tasks.rows import LabelledRows

SIDE = 8


def characters(classes: int = 4, rows: int = 7) -> LabelledRows:
    """Drawings of which each pixel says class, row and place."""
    ink = torch.arange(classes * rows * SIDE * SIDE) % 251
    inputs = ink.to(torch.uint8).reshape(-1, 1, SIDE, SIDE)
    counts = torch.full((classes,), rows)
    return LabelledRows(inputs, counts, tuple(map(str, range(classes))))


def test_a_completion_gives_some_pixels_at_their_places_and_asks_for_all_others() -> None:
    drawings = characters()
    source = Completions(drawings, given=10)
    found = set()
    for seed in range(30):
        task = source(generator(seed))
        where = torch.cat([task.support.inputs, task.query.inputs])
        ink = torch.cat([task.support.targets, task.query.targets])
        assert task.support.targets.shape == (10, 1)
        cells = ((where + 1) / 2 * SIDE).long()
        picture = torch.full((SIDE, SIDE), -1.0)
        picture[cells[:, 0], cells[:, 1]] = ink[:, 0]
        same = ((drawings.inputs[:, 0] / 255 - picture).abs() < 1e-6).all((1, 2))
        assert int(same.sum()) == 1
        found.add(int(same.nonzero()))
    assert len(found) > 10
    with pytest.raises(ValueError, match="given must be 1 to 63"):
        Completions(drawings, given=64)


def test_new_drawings_are_of_one_character_and_queries_have_no_noise() -> None:
    drawings = characters()
    source = NewDrawings(drawings, shots=3, queries=2, noise=5)
    task = source(generator(0))
    assert torch.equal(task.query.inputs, torch.zeros(2, 5))
    assert task.support.inputs.std() > 0.3
    rows = torch.cat([task.support.targets, task.query.targets])
    every = drawings.inputs.flatten(1) / 255
    which = torch.stack([((every - row).abs() < 1e-6).all(1).nonzero()[0, 0] for row in rows])
    assert len(set(which.tolist())) == 5
    assert len(set((which // 7).tolist())) == 1
    with pytest.raises(ValueError, match=r"8 drawings and 2 to compare with .* a class has 7"):
        NewDrawings(drawings, shots=8, queries=2, noise=5)


def test_turned_drawings_are_turned_by_right_angles() -> None:
    drawings = characters(1, 2)
    turns = {torch.rot90(drawings.inputs[0, 0], k).flatten().numpy().tobytes() for k in range(4)}
    turns |= {torch.rot90(drawings.inputs[1, 0], k).flatten().numpy().tobytes() for k in range(4)}
    source = NewDrawings(drawings, 1, 1, noise=1, turned=True)
    found = {
        (255 * source(generator(s)).support.targets[0]).round().byte().numpy().tobytes()
        for s in range(60)
    }
    assert found == turns


def test_baselines_are_the_nearest_pixel_and_the_mean_drawing() -> None:
    task = Completions(characters(), given=10)(generator(0))
    nearest = NearestPixel()(task.support, task.spec)(task.query.inputs)
    for query, answer in zip(task.query.inputs, nearest, strict=True):
        distances = [float((query - place).norm()) for place in task.support.inputs]
        closest = [i for i, d in enumerate(distances) if d < min(distances) + 1e-6]
        assert any(float(answer) == float(task.support.targets[i]) for i in closest)
    mean = torch.rand(SIDE, SIDE)
    found = MeanDrawing(mean)(task.support, task.spec)(places(SIDE))
    assert torch.equal(found[:, 0], mean.flatten())


def drawing(path: Path, ink: int = 0, paper: int = 255, alpha: bool = False) -> Path:
    pixels = np.full((24, 24, 4), 255, np.uint8)
    pixels[..., :3] = paper
    pixels[6:9, 2:22, :3] = ink
    if alpha:
        pixels[12:, :, 3] = 0
    Image.fromarray(pixels if alpha else pixels[..., :3]).save(path)
    return path


def test_ink_is_bright_whether_it_was_drawn_dark_or_light(tmp_path: Path) -> None:
    dark = Generation(size=SIDE).support(
        _folder(tmp_path / "dark", ink=0, paper=255), _statistician()
    )
    light = Generation(size=SIDE).support(
        _folder(tmp_path / "light", ink=255, paper=0), _statistician()
    )
    torch.testing.assert_close(dark.examples.targets, light.examples.targets, atol=0.01, rtol=0)
    assert dark.examples.targets.reshape(3, SIDE, SIDE)[:, 2].mean() > 0.7
    assert dark.examples.targets.mean() < 0.3
    assert ink_of(torch.full((1, 1, 2, 2), 200, dtype=torch.uint8)).max() == 55


def _folder(path: Path, **colours: int) -> Path:
    path.mkdir()
    for i in range(3):
        drawing(path / f"{i}.png", **colours)
    return path


def _statistician() -> qs.Learner:
    torch.manual_seed(0)
    return Generation(size=SIDE)._learner("neural_statistician")


def test_a_few_drawings_give_as_many_new_ones_as_are_asked_for(tmp_path: Path) -> None:
    application, learner = Generation(size=SIDE), _statistician()
    given = application.support(_folder(tmp_path / "own"), learner)
    assert given.examples.inputs.shape == (3, CONTEXT + LATENT)
    predictor = learner(given.examples, given.spec)
    predictor.info.update(given.info)  # type: ignore[attr-defined]
    inputs, names = application.inputs([Path("4")], predictor)
    rows = application.written(predictor, inputs, names, tmp_path)
    assert [row["name"] for row in rows] == [f"drawing {i}" for i in (1, 2, 3, 4)]
    with Image.open(tmp_path / "drawing_002.png") as made:
        shown = np.asarray(made)[::8, ::8]
    ink = predictor(inputs)[1].reshape(SIDE, SIDE).detach().numpy()
    np.testing.assert_allclose(1 - shown / 255, ink, atol=0.003)
    for wrong in ("0", "many", "1001"):
        with pytest.raises(ValueError, match="takes the number of new drawings"):
            application.inputs([Path(wrong)], predictor)


def test_a_picture_with_transparent_parts_is_completed_in_any_size(tmp_path: Path) -> None:
    application = Generation(size=SIDE)
    torch.manual_seed(0)
    learner = application._learner("convolutional_conditional_neural_process")
    given = application.support(drawing(tmp_path / "part.png", alpha=True), learner)
    assert len(given.examples.targets) == SIDE * SIDE // 2
    assert bool((given.examples.inputs[:, 0] < 0).all())  # the upper half is known
    predictor = learner(given.examples, given.spec)
    predictor.info.update(given.info)  # type: ignore[attr-defined]
    inputs, names = application.inputs([Path("20")], predictor)
    rows = application.written(predictor, inputs, names, tmp_path)
    assert len(rows) == 400
    assert rows[21]["name"] == "row 2, column 2"
    with Image.open(tmp_path / "completed.png") as made:
        assert made.size == (160, 160)


def test_pixels_known_in_part_have_the_ink_of_what_is_known(tmp_path: Path) -> None:
    pixels = np.zeros((8, 8, 2), np.uint8)
    pixels[:, :, 0] = 255  # white
    pixels[0, 0] = 0, 255  # black and opaque: three quarters of the first cell are known
    pixels[0, 1, 1] = pixels[1, 0, 1] = 255
    pixels[4:, :, 1] = 255
    Image.fromarray(pixels, "LA").save(tmp_path / "part.png")
    ink, known = read_partial(tmp_path / "part.png", 4)
    assert known.tolist() == [[True] + 3 * [False], 4 * [False], 4 * [True], 4 * [True]]
    assert float(ink[0, 0]) == pytest.approx(1 / 3, abs=1e-6)
    assert float(ink[2:].max()) == 0


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    application, learner = Generation(size=SIDE), _statistician()
    with pytest.raises(FileNotFoundError, match="a folder of a few drawings"):
        application.support(tmp_path / "none", learner)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="found no picture"):
        application.support(tmp_path / "empty", learner)
    (tmp_path / "empty" / "text.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"none of its pictures .* not an image"):
        application.support(tmp_path / "empty", learner)
    drawing(tmp_path / "empty" / "one.png")
    with pytest.warns(SkippedInput, match=r"left out: .*text.png: not an image"):
        assert len(application.support(tmp_path / "empty", learner).examples.targets) == 1
    with pytest.raises(ImageError, match="not an image"):
        Generation(size=SIDE, strict=True).support(tmp_path / "empty", learner)
    with pytest.raises(ValueError, match="nothing of it is transparent"):
        read_partial(drawing(tmp_path / "whole.png"), SIDE)
    with pytest.raises(ValueError, match="size must be 8 to 64"):
        Generation(size=4)
    with pytest.raises(ValueError, match="Give it as --root FOLDER"):
        application.prepare("own", None, "neural_statistician", None, 0)


def test_a_run_on_own_drawings_has_new_things_in_the_test(tmp_path: Path) -> None:
    for thing in range(9):
        folder = tmp_path / f"thing {thing}"
        folder.mkdir()
        for i in range(8):
            drawing(folder / f"{i}.png", ink=10 * thing)
    for learner in ("neural_statistician", "convolutional_conditional_neural_process"):
        parts = [Generation(size=SIDE).prepare("own", tmp_path, learner, None, 3) for _ in range(2)]
        same = zip(*(each.learner.state_dict().values() for each in parts), strict=True)
        assert all(torch.equal(a, b) for a, b in same)
        task = parts[0].test(generator(0))
        predictor = parts[0].learner(task.support, task.spec)
        assert predictor(task.query.inputs).shape == task.query.targets.shape
        assert parts[0].validation is not None
    trained_on = parts[0].train.drawings.inputs  # of the process, the last one
    mean = parts[0].baselines["mean drawing"].mean
    torch.testing.assert_close(mean, trained_on.float().mean((0, 1)) / 255)
    with pytest.raises(ValueError, match="shots are drawings"):
        Generation(size=SIDE).prepare(
            "own", tmp_path, "conditional_neural_process", 5, 0
        )  # fmt: skip


def test_a_picture_to_complete_is_turned_as_it_is_shown(tmp_path: Path) -> None:
    pixels = np.zeros((8, 8, 2), np.uint8)
    pixels[:4, :, 1] = 255  # the upper half is known, as it is stored
    exif = Image.Exif()
    exif[0x0112] = 3  # half a turn
    Image.fromarray(pixels, "LA").save(tmp_path / "part.png", exif=exif)
    _, known = read_partial(tmp_path / "part.png", 4)
    assert known.tolist() == [4 * [False]] * 2 + [4 * [True]] * 2


def test_a_character_without_drawings_to_compare_with_is_refused() -> None:
    for shots, queries in ((5, 0), (9, -2), (7, 1)):
        with pytest.raises(ValueError, match=r"at least 1 of each, but a class has 7\. Lower"):
            NewDrawings(characters(), shots, queries, 3)
