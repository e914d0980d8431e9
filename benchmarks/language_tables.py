"""The tables of texts, relations and questions, from ``results/language.json``."""

from __future__ import annotations

from results_files import Rows, figure, known, read

INTENTS = {
    "frozen, nearest mean": "frozen features, nearest mean",
    "frozen, whitened": "whitened by the training intents",
    "head trained over tasks": "and a linear change trained over tasks",
}
RELATIONS = {
    "cnn, trained over tasks": "convolutional network, trained over tasks",
    "frozen, nearest mean": "frozen features, nearest mean",
    "frozen, whitened": "whitened by the training relations",
    "frozen, trained over tasks": "and a linear change trained over tasks",
    "tuned, trained over tasks": "the encoder's last two layers trained over tasks",
}
QUESTIONS = {
    "capitalised words": "the last capitalised words",
    "nearest mean of words": "nearest mean of frozen features of words",
    "span scorer": "span scorer, trained over tasks",
}


def intents() -> Rows:
    """50 unseen intents, and texts of none of them."""
    found = read("language")
    columns = {(50, 1): "50 ways, 1 shot", (50, 5): "50 ways, 5 shots", (5, 1): "5 ways, 1 shot"}
    rows: Rows = []
    for name, title in INTENTS.items():
        row: dict[str, object] = {"method": title}
        for (ways, shots), column in columns.items():
            row[column] = known(found[f"intents, {ways} ways, {shots} shots, {name}"])
        strange = found[f"intents, out of scope, {name}"]["scores"]
        rows.append({**row, "out of scope, ROC-AUC": figure(strange)})
    return rows


def relations() -> Rows:
    """Both halves of Wikipedia's relations, each half, and PubMed."""
    found = read("language")
    rows: Rows = []
    for name, title in RELATIONS.items():
        row: dict[str, object] = {"method": title}
        for shots in (1, 5):
            keys = [f"relations, {half}, 5 ways, {shots} shots, {name}" for half in HALVES]
            if not all(key in found for key in keys):
                continue
            both = [score for key in keys for score in found[key]["scores"]]
            row[f"both halves, {shots} shot{'s' if shots > 1 else ''}"] = figure(both)
            if shots == 1:
                row |= {half: known(found[key]) for half, key in zip(HALVES, keys, strict=True)}
        for ways, shots in ((5, 1), (5, 5), (10, 1)):
            key = f"relations, pubmed, {ways} ways, {shots} shots, {name}"
            row[f"PubMed, {ways} ways, {shots} shot{'s' if shots > 1 else ''}"] = (
                known(found[key]) if key in found else None
            )
        if len(row) > 4:
            rows.append(row)
    return rows


def questions() -> Rows:
    """F1 and exact match on both halves, and F1 on each."""
    found = read("language")
    rows: Rows = []
    for name, title in QUESTIONS.items():
        of = [found[f"questions, {half}, 5 shots, {name}"] for half in HALVES]
        both = [score for each in of for score in each["scores"]]
        exact = [score for each in of for score in each["others"]["exact match"]["scores"]]
        rows.append({
            "method": title, "F1": figure(both), "exact match": figure(exact),
            "F1, first half": known(of[0]), "F1, second half": known(of[1]),
        })  # fmt: skip
    return rows


HALVES = ("first", "second")
TABLES = {
    "language_intents": intents,
    "language_relations": relations,
    "language_questions": questions,
}
