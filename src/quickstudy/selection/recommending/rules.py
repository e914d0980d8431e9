"""Rules for what to try first, which need no measurement: the first table of how-to-choose.md.

``python -m quickstudy.selection.recommending.rules`` prints the table. A test compares it with the
page.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

NOTHING = "–"


@dataclass(frozen=True)
class Rule:
    """What to do with data of one kind, in Markdown.

    ``key``     by which code asks for it.
    ``having``  the data. ``first``, ``then``: what to try; ``never``: what to leave.
    ``tables``  the section of the page whose tables support it.
    """

    key: str
    having: str
    first: str
    then: str
    never: str
    tables: str

    @property
    def sentence(self) -> str:
        """The rule in words, without Markdown."""
        then = "" if self.then == NOTHING else f"; then {_plain(self.then)}"
        never = "" if self.never == NOTHING else f"; do not {_plain(self.never)}"
        return f"{_plain(self.having)}: try first {_plain(self.first)}{then}{never}"

    @property
    def line(self) -> str:
        """The rule as a line of the table."""
        return f"| {self.having} | {self.first} | {self.then} | {self.never} | {self.tables} |"


def _plain(text: str) -> str:
    """Markdown without links and marks of code."""
    return re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text).replace("`", "")


HEADER = "| you have | try first | then | do not | measured |"

_PICTURES = "[pictures](#is-a-pretrained-network-worth-it)"
_SOURCES = "[sources](#sources-with-few-labels-of-the-target)"
_TOGETHER = "[together](#many-tasks-together-or-each-alone)"

RULES = (
    Rule(
        "photographs", "few labelled photographs, things that ImageNet shows",
        "a pretrained network with [SimpleShot](learners/simple_shot.md)", "linear probe",
        "train from scratch", _PICTURES,
    ),
    Rule(
        "other pictures", "pictures unlike ImageNet: drawings, characters, microscopy",
        "the same, and compare with meta-learning on your own classes",
        "fine-tuning, if there are 10 rows a class", "trust the pretrained one unseen", _PICTURES,
    ),
    Rule(
        "texts", "few labelled texts", "a pretrained encoder with SimpleShot", "linear probe",
        "train from scratch", "[texts](#texts)",
    ),
    Rule(
        "several networks", "several pretrained networks",
        "[`qs.transferability`](whether-to-transfer.md#which-pretrained-features)",
        "the best two, by evaluation", "choose by the ImageNet accuracy",
        "[networks](#choosing-a-pretrained-network)",
    ),
    Rule(
        "new classes", "many tasks like yours",
        "[meta-learning](learners/README.md) on them, from a pretrained start", NOTHING, NOTHING,
        _PICTURES,
    ),
    Rule(
        "functions", "many functions like yours, few points of each",
        "ridge on learnt features, [`qs.LinearProbe`](learners/linear_probe.md), or a "
        "[conditional neural process](learners/neural_process.md), trained over them",
        "a kernel machine on the points alone, to see whether training gains",
        "begin with inner gradient steps", "[functions](#functions)",
    ),
    Rule(
        "one source", "labelled rows of another place, few of yours",
        "[`qs.SafeGate`](learners/safe_gate.md) around pooled rows", "TrAdaBoost inside the gate",
        "pool without looking", _SOURCES,
    ),
    Rule(
        "several sources", "several other places",
        "[`qs.negative_transfer`](whether-to-transfer.md#which-sources-help-and-which-harm), then "
        "leave the harmful ones out",
        "the gate on the rest", "assume that more sources are better", _SOURCES,
    ),
    Rule(
        "unlabelled target", "labelled rows of another place, unlabelled ones of yours",
        "a learner for the shift that you have (table below)",
        "choose by validation without target labels",
        "choose by target labels and report that", "[shifts](#which-shift-is-it)",
    ),
    Rule(
        "unlabelled rows", "unlabelled rows beside a few labelled ones",
        "[`qs.GaussianMixture`](learners/gaussian_mixture.md), "
        "[`qs.SelfTraining`](learners/self_training.md)",
        "the gate, to see whether it helped", "expect a gain where classes touch", _SOURCES,
    ),
    Rule(
        "named tasks", "many tasks that have names: schools, assays, products",
        "each task alone, tuned; then [`qs.MeanRegularised`](learners/mean_regularised.md) or "
        "[`qs.HardSharing`](learners/hard_sharing.md), judged task by task",
        "fixed task weights, tuned", "begin with a special balancer", _TOGETHER,
    ),
    Rule(
        "many rows", "many labelled rows of each class, or of one table",
        "a linear or kernel machine on your rows alone", "features of a pretrained network",
        "meta-learn: there are no other tasks to learn from", "[many rows](#when-not-to-transfer)",
    ),
    Rule(
        "no labels", "no labels at all", "[`qs.KMeans`](learners/k_means.md) with `qs.clustering`",
        "on pretrained features", "read the clusters' numbers as classes", NOTHING,
    ),
)  # fmt: skip
"""In the order of the page."""


def rules_for(keys: Sequence[str]) -> tuple[Rule, ...]:
    """The rules of these keys, in the order of ``keys``; KeyError for one that is not there."""
    by_key = {rule.key: rule for rule in RULES}
    return tuple(by_key[key] for key in keys)


def table() -> str:
    """The table of how-to-choose.md."""
    return "\n".join([HEADER, "|" + "---|" * 5, *(rule.line for rule in RULES)])


if __name__ == "__main__":
    print(table())
