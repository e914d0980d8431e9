"""The pictures of the pages on text, relations and questions, from ``results/language.json``.

python benchmarks/language_pictures.py
"""

from __future__ import annotations

from pathlib import Path

from results_files import mean_of, read

FOLDER = Path(__file__).parents[1] / "docs" / "applications"
COLOUR, GREY = "#2f6f9f", "#c9ced6"


def main() -> None:
    """Draw the three pictures."""
    results = read("language")
    methods = {
        "frozen, nearest mean": "nearest mean, frozen", "frozen, whitened": "whitened",
        "head trained over tasks": "trained over tasks",
    }  # fmt: skip
    draw("text", "50 ways, unseen intents: accuracy in %", [
        (f"{title}, {shots}", results[f"intents, 50 ways, {shots[0]} shots, {name}"]["scores"])
        for shots in ("1 shot", "5 shots") for name, title in methods.items()
    ])  # fmt: skip
    of_relations = {
        "cnn, trained over tasks": "convolutional network", **methods,
        "frozen, trained over tasks": "trained over tasks",
        "tuned, trained over tasks": "last layers trained",
    }  # fmt: skip
    del of_relations["head trained over tasks"]
    draw("relations", "5 ways, 1 shot, unseen relations: accuracy in %", [
        (title, halves(results, "relations", f"5 ways, 1 shots, {name}"))
        for name, title in of_relations.items()
        if f"relations, second, 5 ways, 1 shots, {name}" in results
    ])  # fmt: skip
    draw("questions", "unseen questions, 5 answers given: F1 in %", [
        (title, halves(results, "questions", f"5 shots, {name}"))
        for name, title in (
            ("capitalised words", "capitalised words"),
            ("nearest mean of words", "nearest mean of words"), ("span scorer", "span scorer"),
        )
    ])  # fmt: skip


def halves(results: dict, part: str, rest: str) -> list[float]:
    """The scores of both halves of Wikipedia's relations, one after the other."""
    return [
        score for half in ("first", "second")
        for score in results[f"{part}, {half}, {rest}"]["scores"]
    ]  # fmt: skip


def draw(name: str, title: str, rows: list[tuple[str, list[float]]]) -> None:
    """Bars of the mean scores, the best one in colour."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    means = [100 * mean_of(scores) for _, scores in rows]
    figure, axes = plt.subplots(figsize=(6.4, 0.42 * len(rows) + 0.9), dpi=110)
    colours = [COLOUR if mean == max(means) else GREY for mean in means]
    bars = axes.barh([label for label, _ in rows], means, color=colours)
    axes.bar_label(bars, [f"{mean:.1f}" for mean in means], padding=3)
    axes.invert_yaxis()
    axes.set_xlim(0, 105)
    axes.set_title(title, loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(FOLDER / f"{name}.png")
    plt.close(figure)


if __name__ == "__main__":
    main()
