"""Tables of ``README.md`` for spoken words, and for drawings that are completed or made anew."""

from __future__ import annotations

from results_files import Rows, known, read

SPLITS = {"both": "new words and speakers", "words": "new words", "speakers": "new speakers"}


def speech() -> Rows:
    """Accuracy at 1 and 5 shots, by split."""
    found = read("speech")
    methods = dict.fromkeys(key.split(" ", 1)[1].rsplit(" ", 1)[0] for key in found)
    rows: Rows = []
    for method in methods:
        of = {split: [found.get(f"{split} {method} {n}") for n in (1, 5)] for split in SPLITS}
        measured = [each for pair in of.values() for each in pair if each]
        cells = {
            title: " / ".join(known(each) if each else "–" for each in of[split])
            for split, title in SPLITS.items()
        }
        seconds = max(each["cpu_seconds"] for each in measured)
        rows.append({"method": method, **cells, "CPU s of training": round(seconds) or None})
    return rows


def completion() -> Rows:
    """Squared error at the pixels that were not given."""
    found = {k: v for k, v in read("generation").items() if k.startswith("completion ")}
    return [
        {
            "method": key.split(" ", 1)[1], "squared error": known(row, digits=4, scale=1),
            "steps": row.get("steps"), "CPU s of training": row.get("cpu_seconds"),
            "tasks": len(row["scores"]),
        }
        for key, row in found.items()
    ]  # fmt: skip


def samples() -> Rows:
    """Share of drawings whose character a judge names right, and how far they are from copies."""
    found = {k: v for k, v in read("generation").items() if k.startswith("samples ")}
    return [
        {
            "drawings": key.split(" ", 1)[1], "named right, 20 ways": known(row),
            "to the nearest given": round(row["distance"], 3), "spread": round(row["spread"], 3),
            "CPU s of training": row.get("cpu_seconds"), "tasks": len(row["scores"]),
        }
        for key, row in found.items()
    ]  # fmt: skip
