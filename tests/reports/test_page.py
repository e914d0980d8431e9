from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from report_samples import NearestMeanPixels, emoji, training_log, views_of

from quickstudy.evaluation.results import Evaluation
from quickstudy.reports.markup import Markup, breakable, join, tag
from quickstudy.reports.page import RunFacts, page
from quickstudy.reports.pictures import data_uri
from quickstudy.reports.view_types import EpisodeView, RegressionView
from quickstudy.tasks.episodes import episodes

HOSTILE = '</td><script>alert("1")</script>\u202e\x1b[31m<img src=x onerror=alert(2)>'


class Outline(HTMLParser):
    """The tags in order; asserts that each is closed correctly."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br", "wbr"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def outline(html: str) -> Outline:
    parser = Outline()
    parser.feed(html)
    parser.close()
    assert parser.open == []
    return parser


@pytest.fixture
def facts(
    make_evaluation: Callable[..., Evaluation],
    metrics: list[dict[str, float]],
    square_views: list[EpisodeView],
) -> RunFacts:
    scores = torch.linspace(0.8, 1.0, 50)
    return RunFacts(
        "Nearest mean on squares",
        make_evaluation(scores),
        metrics,
        square_views,
        {"data": "squares", "training": {"steps": 2000, "ways": [5, 20], "rate": None}},
        {"torch": "2.13.0"},
        "quickstudy run --data squares",
        "4f2a91c",
    )


def test_the_page_contains_all_facts(facts: RunFacts) -> None:
    html = page(facts)
    text = re.sub(r"<[^>]+>", " ", re.sub(r"<style>.*?</style>", "", html, flags=re.DOTALL))
    text = " ".join(text.split())
    for phrase in ("Nearest mean on squares", "90.0% ± 1.6", "50 test tasks", "inductive",
                 "88.4% to 91.6%", "3f9ac1d27b60", "1.32 ms", "8.1%", "4f2a91c", "torch 2.13.0",
                 "training.steps 2000", "training.ways 5, 20",
                 "quickstudy run --data squares"):  # fmt: skip
        assert phrase in text, phrase
    assert page(facts) == html, "the same facts give the same bytes"


def test_the_page_loads_nothing_and_runs_no_script(facts: RunFacts) -> None:
    tags = outline(page(facts)).seen
    assert not {"script", "link", "iframe", "object"} & {name for name, _ in tags}
    for name, attributes in tags:
        for key, value in attributes.items():
            assert not key.startswith("on")
            if key in ("src", "href", "xlink:href"):
                assert value is not None
                assert value.startswith(("data:image/", "#")), (name, key)
    assert all("alt" in attributes for name, attributes in tags if name == "img")
    assert all("aria-label" in attributes for name, attributes in tags if name == "svg")
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_text_with_markup_is_escaped(facts: RunFacts) -> None:
    views = [replace(view, names=(HOSTILE,) * len(view.names)) for view in facts.views
             if isinstance(view, EpisodeView)]  # fmt: skip
    e = replace(facts.evaluation, norm=HOSTILE, fingerprint=HOSTILE)
    hostile = RunFacts(HOSTILE, e, facts.metrics, views, {HOSTILE: HOSTILE}, {HOSTILE: HOSTILE},
                       HOSTILE, HOSTILE, HOSTILE, HOSTILE)  # fmt: skip
    html = page(hostile)
    tags = outline(html).seen
    assert not any(name == "script" for name, _ in tags)
    assert not any("onerror" in attributes for _, attributes in tags)
    assert "\u202e" not in html
    assert "\x1b" not in html
    assert "&lt;script&gt;" in html


def test_wrong_predictions_are_marked_by_more_than_colour(facts: RunFacts) -> None:
    views = [view for view in facts.views if isinstance(view, EpisodeView)]
    html = page(facts)
    wrong = sum(int((~view.correct).sum()) for view in views[:3])
    assert wrong > 0, "the test needs wrong predictions"
    assert html.count('class="tile wrong"') == wrong == len(re.findall("<span>✗ [A-E] ", html))


def test_transductive_results_are_marked(
    facts: RunFacts, make_evaluation: Callable[..., Evaluation]
) -> None:
    html = page(replace(facts, evaluation=make_evaluation(torch.rand(9), transductive=True)))
    assert "must not be compared with inductive ones" in html
    assert "Inductive:" not in html


def test_a_page_needs_an_evaluation_alone(facts: RunFacts) -> None:
    outline(page(RunFacts("bare", facts.evaluation)))
    view = facts.views[0]
    assert isinstance(view, EpisodeView)
    plain = replace(
        view, support_images=None, query_images=None, support_embeddings=None, query_embeddings=None
    )
    html = page(replace(facts, views=[plain], metrics=[]))
    assert "<img" not in html
    assert "Confusion among the ways" in html
    right = replace(plain, predicted=plain.query_targets)
    assert "Every query was predicted correctly." in page(replace(facts, views=[right]))


def test_regression_pages(make_evaluation: Callable[..., Evaluation]) -> None:
    x = np.linspace(-1, 1, 20)
    curve = RegressionView(x[:5, None], x[:, None], None, x[:, None] + 0.1, x[:5], x)
    many = RegressionView(np.ones((5, 2)), np.ones((9, 2)), None, np.zeros((9, 2)), None, None)
    e = make_evaluation(torch.rand(20), "mse")
    html = page(RunFacts("curves", e, (), [curve] * 6))
    outline(html)
    assert html.count("Mean squared error 0.01 after adapting to 5 points") == 2 * 4
    assert "Predictions against true values" in page(RunFacts("vectors", e, (), [many]))


def test_large_tasks_keep_the_page_small(make_evaluation: Callable[..., Evaluation]) -> None:
    noise = np.random.default_rng(0)
    ways, support = 20, np.repeat(np.arange(20), 5)
    query = np.repeat(np.arange(20), 15)
    coarse = noise.random((400, 3, 12, 12)).repeat(7, 2).repeat(7, 3)
    images = np.clip(coarse + 0.05 * noise.normal(size=coarse.shape), 0, 1)
    view = EpisodeView(
        images[:100], images[100:], support, query, noise.integers(0, ways, 300),
        noise.random(300), noise.random((100, 64)), noise.random((300, 64)),
        tuple(f"class {k}" for k in range(ways)),
    )  # fmt: skip
    html = page(RunFacts("large", make_evaluation(torch.rand(600)), training_log(), [view] * 3))
    assert len(html.encode()) < 1_500_000
    assert "Not drawn: queries beyond the first 9 of a class" in html


def test_real_images_with_transparency(
    shared_data: Path, make_evaluation: Callable[..., Evaluation]
) -> None:
    source = episodes(emoji(shared_data / "emoji"), 5, 1, 3)
    views = views_of(source, NearestMeanPixels(30.0), 6)
    html = page(RunFacts("emoji", make_evaluation(torch.rand(600)), training_log(), views))
    outline(html)
    assert len(html.encode()) < 1_500_000
    first = views[0].support_images
    assert first is not None
    assert data_uri(first[0]) in html


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_small_images_are_kept_exactly(channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (channels, 20, 30), dtype=np.uint8)
    kind, encoded = data_uri(pixels / 255).split(";base64,")
    assert kind == "data:image/png"
    decoded = np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))))
    np.testing.assert_array_equal(decoded.reshape(20, 30, channels), pixels.transpose(1, 2, 0))


def test_large_images_are_shrunk_as_a_whole() -> None:
    encoded = data_uri(np.full((3, 100, 50), 0.5)).split(",")[1]
    assert Image.open(io.BytesIO(base64.b64decode(encoded))).size == (28, 56)


def test_everything_but_markup_is_escaped() -> None:
    assert tag("p", "<&", Markup("<b>x</b>"), None, class_='"', data_x=None) == (
        '<p class="&quot;">&lt;&amp;<b>x</b></p>'
    )
    assert join("a\nb\x07") == "a\nb\\x07"
    assert breakable("a/<b>_c") == "a/<wbr>&lt;b&gt;_<wbr>c"
