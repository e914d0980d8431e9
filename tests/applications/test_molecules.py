"""Molecules in assays: a run's parts, and the way of a user's files to an order of molecules."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

import quickstudy as qs
from quickstudy.applications.molecules import MoleculesInAssays
from quickstudy.base.skipped import SkippedInput

pytest.importorskip("rdkit")

ALCOHOLS = ["C" * n + "O" for n in range(1, 31)]
AMINES = ["C" * n + "N" for n in range(1, 31)]


def table(folder: Path) -> Path:
    """Four assays: alcohols or amines are active, and large ones, in turn."""
    lines = ["smiles,oh,nh,large,small"]
    for texts, oh in ((ALCOHOLS, 1), (AMINES, 0)):
        lines += [f"{t},{oh},{1 - oh},{int(len(t) > 15)},{int(len(t) <= 15)}" for t in texts]
    path = folder / "table.csv"
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize("learner", MoleculesInAssays.learners)
def test_every_learner_has_a_run_on_the_users_table(learner, tmp_path):
    application = MoleculesInAssays()
    prepared = application.prepare("own", table(tmp_path).parent, learner, 4, seed=0)
    again = application.prepare("own", table(tmp_path), learner, 4, seed=0)
    for one, other in zip(prepared.learner.parameters(), again.learner.parameters(), strict=True):
        assert torch.equal(one, other)
    task = qs.tasks.draw(prepared.test, 0, 0)
    if prepared.train is not None:
        qs.fit(prepared.learner, prepared.train, 1, 1, progress=False)
        trained = {str(row) for row in qs.tasks.draw(prepared.train, 0, 0).support.inputs["smiles"]}
        assert not trained & {str(row) for row in task.query.inputs["smiles"]}
    logits = prepared.learner.eval()(task.support, task.spec)(task.query.inputs)
    assert logits.shape == (len(task.query.targets), 2)
    assert "2 assays that nothing was trained on" in prepared.about


def write(folder: Path, text: str, name: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_a_users_molecules_are_put_in_order_and_drawn(tmp_path):
    application = MoleculesInAssays()
    learner = application.learner("random_forest", 0, seed=0)
    rows = [f"{t},1" for t in ALCOHOLS[2:10]] + [f"{t},0" for t in AMINES[2:10]] + ["CCC,"]
    support = application.support(
        write(tmp_path, "smiles,active\n" + "\n".join(rows), "tested.csv"), learner
    )
    assert (support.spec, len(support.examples.targets)) == (qs.ranking("active"), 16)
    adapted = learner(support.examples, support.spec)
    predictor = dataclasses.replace(adapted, info=support.info)
    library = write(tmp_path, "CCCCCCCCCCCCN amine\nCCCCCCCCCCCCO alcohol\nC1CC\n", "library.smi")
    with pytest.warns(SkippedInput, match="left out 1 of 3 rows that cannot be read: 'C1CC'"):
        inputs, names = application.inputs([library], predictor)
    found = application.written(predictor, inputs, names, tmp_path)
    assert [(row["name"], row["place"]) for row in found] == [
        ("CCCCCCCCCCCCN", 2), ("CCCCCCCCCCCCO", 1)
    ]  # fmt: skip
    assert found[1]["score"] > found[0]["score"]
    drawn = (tmp_path / "molecules.svg").read_text()
    assert "<svg" in drawn
    assert drawn.count("class='bond-0 ") >= 2
    with pytest.raises(ValueError, match="1 of 3 rows that cannot be read"):
        MoleculesInAssays(strict=True).inputs([library], predictor)


@pytest.mark.parametrize(("text", "found"), [
    ("smiles,a\nCC,1\nCO,1\nCN,\n", "needs active and inactive molecules.*found 2 active of 2"),
    ("smiles,a,b\nCC,1,0\nCO,0,1\n", "has 2 assays, a, b, and one must be chosen"),
])  # fmt: skip
def test_a_support_that_cannot_be_learnt_from_is_refused(text, found, tmp_path):
    learner = MoleculesInAssays().learner("random_forest", 0, seed=0)
    with pytest.raises(ValueError, match=found):
        MoleculesInAssays().support(write(tmp_path, text, "tested.csv"), learner)


def test_options_and_files_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(ValueError, match='must be "fingerprint" or "graph"; found \'atoms\''):
        MoleculesInAssays(encoder="atoms")
    path = write(tmp_path, "smiles,a,b\nCC,1,0\nCO,0,1\n", "tested.csv")
    learner = MoleculesInAssays().learner("random_forest", 0, seed=0)
    with pytest.raises(ValueError, match="has no assay 'c'; found a, b"):
        MoleculesInAssays(assay="c").support(path, learner)
    with pytest.raises(ValueError, match="none of 1 assay to test on has molecules enough"):
        MoleculesInAssays().prepare("own", path, "random_forest", None, 0)
    with pytest.raises(ValueError, match="needs a molecule that can be read; found none in 0 rows"):
        MoleculesInAssays().inputs([write(tmp_path, "", "empty.smi")], None)
    (tmp_path / "second.csv").write_text("")
    with pytest.raises(ValueError, match="must hold one CSV file of molecules; found 2"):
        MoleculesInAssays().prepare("own", tmp_path, "random_forest", None, 0)
    with pytest.raises(ValueError, match="--data toxcast"):
        MoleculesInAssays().prepare("own", None, "random_forest", None, 0)


def test_reports_draw_molecules(tmp_path):
    from quickstudy.reports.views import view

    prepared = MoleculesInAssays().prepare("own", table(tmp_path), "random_forest", 4, 0)
    shown = view(prepared.learner, qs.tasks.draw(prepared.test, 0, 0), ["inactive", "active"])
    assert shown.support_images.shape == (4, 3, 128, 128)
    ink = [float((1 - image).sum()) for image in shown.query_images]
    drawn = [bool(each) for each in ink]
    first = {k: [d for d, t in zip(drawn, shown.query_targets, strict=True) if t == k]
             for k in (0, 1)}  # fmt: skip
    for of_class in first.values():
        assert of_class == [True] * min(15, len(of_class)) + [False] * max(0, len(of_class) - 15)
