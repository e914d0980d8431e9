"""The data of several runs, loaded once, and what each of these runs needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

from quickstudy.core import Learner
from quickstudy.datasets.dataset import Dataset
from quickstudy.files.registry import BACKBONES
from quickstudy.interfaces.runs.assemble import (
    Parts,
    load_data,
    make_learner,
    make_sources,
    make_test_source,
)
from quickstudy.interfaces.runs.featured import (
    Featured,
    backbone_of,
    featured,
    is_fixed,
    on_features,
    with_small_pictures,
)
from quickstudy.interfaces.runs.provenance import choose_device
from quickstudy.interfaces.runs.recipe import Recipe
from quickstudy.selection.comparing.contenders import Trained
from quickstudy.tasks.episodes import Episodes


class Loaded:
    """The data of a comparison, loaded once, and the parts of its runs."""

    def __init__(self, *recipes: Recipe) -> None:
        self.data = load_data(recipes[0])
        self._alike = len(recipes) > 1 and any(each.backbone not in BACKBONES for each in recipes)
        self._features: dict[tuple[str, str], Featured] = {}

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Of one input."""
        return tuple(self.data.train.inputs.shape[1:])

    def learner(self, recipe: Recipe) -> Learner:
        """A new learner with initial weights, on its device."""
        return make_learner(recipe, self.shape).to(choose_device(recipe.device))

    def parts(self, recipe: Recipe, learner: Learner) -> Parts:
        """What a run of ``recipe`` needs."""
        if not is_fixed(learner) or recipe.augment:
            return Parts(recipe, self.data, make_sources(recipe, self.data, learner), learner)
        found = self.featured(recipe, learner)
        sources = make_sources(recipe, found.features, learner)
        return Parts(recipe, self.data, sources, learner, found)

    def featured(self, recipe: Recipe, learner: Learner) -> Featured:
        """The features of a frozen pretrained backbone, computed once."""
        key = (recipe.backbone, str(recipe.device))
        if key not in self._features:
            self._features[key] = featured(
                self.data, backbone_of(learner), ("train", "val", "test")
            )
        return self._features[key]

    @cached_property
    def small(self) -> Dataset:
        """The data with smaller test pictures."""
        return with_small_pictures(self.data, ("test",))

    def trained(self, recipe: Recipe, learner: Learner, shots: Sequence[int] = ()) -> Trained:
        """How ``learner`` is tested; by its features where it reads only these.

        Tasks of features are known by smaller pictures. Beside such a learner others are too, so
        that all have one fingerprint.
        """
        fixed = is_fixed(learner)
        data = self.featured(recipe, learner).features if fixed else self.data

        def sources(recipe: Recipe) -> tuple[Episodes, Episodes | None]:
            raw = make_test_source(recipe, self.small, learner) if fixed or self._alike else None
            return make_test_source(recipe, data, learner), raw

        source, raw = sources(recipe)
        over = {n: sources(replace(recipe, shots=n)) for n in shots}
        if not fixed:
            return Trained(learner, source, raw, over_shots=over)
        whole = make_test_source(recipe, self.data, learner)
        return Trained(on_features(learner), source, raw, learner, whole, over_shots=over)
