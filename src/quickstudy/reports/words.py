"""Numbers and names as text, for tables, figures and pages."""

from __future__ import annotations

INDUCTIVE = (
    "Inductive: the prediction for each query depends on the support set and that query alone. The "
    "other queries of the task have no influence on it."
)
TRANSDUCTIVE = (
    "Transductive: the queries of a task were predicted together and influenced one another, for "
    "example through batch normalisation statistics. That is an easier problem, so this result "
    "must not be compared with inductive ones."
)


def pretrained(sentence: str) -> str:
    """One of :attr:`Evaluation.weights` as a note of a page."""
    return f"Pretrained: {sentence}."


def in_unit(unit: str) -> float:
    """The factor that turns a score into its unit: 100 for percent."""
    return 100.0 if unit == "%" else 1.0


def axis(score: str, unit: str, better: bool = True) -> str:
    """The label of an axis: "accuracy (%)", "mse (lower is better)"."""
    remarks = [unit] if unit else []
    remarks += [] if better else ["lower is better"]
    return f"{score} ({', '.join(remarks)})" if remarks else score


def duration(seconds: float) -> str:
    """0.00321 -> "3.2 ms", 75 -> "1 min 15 s", 0.00002 -> "20 µs"."""
    if seconds >= 3600:
        return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60)} min"
    if seconds >= 60:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} µs"


def letter(way: int) -> str:
    """A short name for a way: 0 -> "A", 25 -> "Z", 26 -> "AA"."""
    letters = ""
    way += 1
    while way:
        way, rest = divmod(way - 1, 26)
        letters = chr(ord("A") + rest) + letters
    return letters


def visible(text: object) -> str:
    """``text`` on one line; control characters (terminal commands, newlines) become escapes."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(text)
    )
