"""The layers of a network in the order of depth, and which of its parameters a learner moves."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from torch import nn

from quickstudy.base.shown import shown
from quickstudy.base.words import count, first_few
from quickstudy.learners.gradient.inner_loop import matching_names
from quickstudy.learners.gradient.network import head_of

HEAD, ALL = "head", "all"


class Layer(NamedTuple):
    """One layer of a network: the name of its module, and those of its parameters."""

    name: str
    parameters: tuple[str, ...]


def layers_of(network: nn.Module) -> list[Layer]:
    """The layers of ``network`` in the order of their definition, from the inputs on.

    The members of an ``nn.Sequential`` or ``nn.ModuleList`` are one layer each, whatever they
    contain. A module without such a list inside is one layer as a whole. So Conv4 has four, and a
    network of a stem, sixteen blocks in a list and a last convolution has eighteen. A linear layer
    ``head`` at the end is none of them.
    """
    found = [Layer(name, tuple(own)) for name, own in _layers(network, "", set()) if own]
    return found if head_of(network) is None else [each for each in found if each.name != "head"]


def _layers(module: nn.Module, prefix: str, seen: set[int]) -> Iterator[tuple[str, list[str]]]:
    yield prefix.rstrip(".") or "itself", _new(module, prefix, seen, recurse=False)
    children = [(n, c) for n, c in module.named_children() if _has_parameters(c)]
    members = _is_list(module) and len(children) > 1
    for name, child in children:
        path = f"{prefix}{name}."
        if members or not any(map(_has_members, child.modules())):
            yield path.rstrip("."), _new(child, path, seen)
        else:
            yield from _layers(child, path, seen)


def _new(module: nn.Module, prefix: str, seen: set[int], recurse: bool = True) -> list[str]:
    """Names of the parameters that no layer before has."""
    found = []
    for name, parameter in module.named_parameters(prefix.rstrip("."), recurse):
        if id(parameter) not in seen:
            seen.add(id(parameter))
            found.append(name)
    return found


def _is_list(module: nn.Module) -> bool:
    listed = isinstance(module, nn.Sequential | nn.ModuleList)
    return listed and all(name.isdigit() for name in module._modules)


def _has_members(module: nn.Module) -> bool:
    return _is_list(module) and sum(map(_has_parameters, module.children())) > 1


def _has_parameters(module: nn.Module) -> bool:
    return any(True for _ in module.parameters())


def moved_names(network: nn.Module, adapts: str | Sequence[str], learner: str) -> list[str]:
    """Names of the trainable parameters of ``network`` that ``adapts`` asks for, in its order.

    ``adapts``  "head" (none of the network's), "all", "last:k" (those of the k last layers), or
                name patterns.

    Raises ValueError for patterns that match nothing, more layers than there are, and where all
    that it asks for is frozen.
    """
    if adapts == HEAD:
        return []
    layers = layers_of(network)
    possible = {name for layer in layers for name in layer.parameters}
    if adapts == ALL:
        wanted = possible
    elif isinstance(adapts, str) and (match := re.fullmatch(r"last:(\d+)", adapts)):
        last = int(match[1])
        if not 1 <= last <= len(layers):
            raise ValueError(
                f"{learner}: adapts={shown(adapts)} asks for {count(last, 'layer')}, but the "
                f"backbone has {len(layers)} ({first_few([each.name for each in layers], 20)}). "
                f"Ask for 1 to {len(layers)}, or give adapts='head'."
            )
        wanted = {name for layer in layers[-last:] for name in layer.parameters}
    else:
        wanted = possible.intersection(matching_names(network, adapts, learner))
    found = [name for name, p in network.named_parameters() if name in wanted and p.requires_grad]
    if not found:
        raise ValueError(
            f"{learner}: adapts={shown(adapts)} moves parameters of the backbone, but all of these "
            "are frozen, or there are none. Call backbone.requires_grad_(True) first (or take "
            "qs.pretrained(name, frozen=False)), or move the head alone: adapts='head'."
        )
    return found


def by_depth(network: nn.Module, names: Sequence[str]) -> list[tuple[int, list[str]]]:
    """Pairs of a depth and the ``names`` of the parameters there, from the last layer back.

    The last layer has depth 1: a head on top of the network has 0.
    """
    wanted = set(names)
    groups = [
        (depth, [name for name in layer.parameters if name in wanted])
        for depth, layer in enumerate(reversed(layers_of(network)), 1)
    ]
    return [(depth, found) for depth, found in groups if found]
