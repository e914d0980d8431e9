"""What data sets there are: name, licence, size, citation. Listing them imports nothing."""

from __future__ import annotations

from dataclasses import dataclass

from quickstudy.registry import nearest


@dataclass(frozen=True)
class Card:
    """What a user should know of a data set before loading it.

    ``name``        what :func:`quickstudy.datasets.load` takes.
    ``title``       the name in prose; ``summary`` is one sentence.
    ``licence``     of the data, as far as its publisher states one.
    ``citation``    whom to cite.
    ``url``         where it comes from.
    ``shape``       of one input, (channels, height, width); None where it depends on the source.
    ``classes``     of the train, validation and test split; None where it depends on the source.
    ``loader``      the function that loads it, ``module:function``.
    ``options``     which options of :func:`~quickstudy.datasets.load` it takes.
    ``splits``      its splits by name, the default first.
    ``downloads``   whether the library fetches it; otherwise the user brings the files.
    ``checked``     what is verified before the data is used, and how.
    ``size_bytes``  of the archives to bring or to download; 0 where nothing is needed.
    """

    name: str
    title: str
    summary: str
    licence: str
    citation: str
    url: str
    shape: tuple[int, int, int] | None
    classes: tuple[int, int, int] | None
    loader: str
    options: frozenset[str] = frozenset()
    splits: tuple[str, ...] = ()
    downloads: bool = False
    checked: str = ""
    size_bytes: int = 0


_CARDS = (
    Card(
        name="glyphs",
        title="Glyphs",
        summary="printed characters of many scripts, rendered on the spot; test scripts are new",
        licence="fonts: Bitstream Vera and DejaVu licence, STIX font licence",
        citation="DejaVu Fonts 2.37; STI Pub, STIX Fonts 1.0; both as shipped with matplotlib",
        url="https://matplotlib.org",
        shape=(1, 28, 28),
        classes=(1411, 158, 434),
        checked="the rendered images, SHA-256 of the cache",
        loader="quickstudy.datasets.glyphs:load",
    ),
    Card(
        name="omniglot",
        title="Omniglot",
        summary="handwritten characters of 50 alphabets, each drawn by 20 people",
        licence="MIT",
        citation="Lake, Salakhutdinov, Tenenbaum: Human-level concept learning through "
        "probabilistic program induction. Science 350 (2015)",
        url="https://github.com/brendenlake/omniglot",
        shape=(1, 28, 28),
        classes=(1028, 172, 423),
        checked="all decoded drawings, SHA-256",
        loader="quickstudy.datasets.omniglot:load",
        options=frozenset({"rotations", "size", "split", "download"}),
        splits=("vinyals", "lake"),
        downloads=True,
        size_bytes=9_464_212 + 6_462_886,
    ),
    Card(
        name="cifar_fs",
        title="CIFAR-FS",
        summary="the 100 classes of CIFAR-100 as few-shot tasks",
        licence="none stated by the publisher; free for research by custom",
        citation="Bertinetto, Henriques, Torr, Vedaldi: Meta-learning with differentiable "
        "closed-form solvers. ICLR (2019); Krizhevsky: Learning multiple layers of features "
        "from tiny images (2009)",
        url="https://www.cs.toronto.edu/~kriz/cifar.html",
        shape=(3, 32, 32),
        classes=(64, 16, 20),
        checked="archive and both record files, SHA-256",
        loader="quickstudy.datasets.cifar_fs:load",
        options=frozenset({"download"}),
        downloads=True,
        size_bytes=168_513_733,
    ),
    Card(
        name="mini_imagenet",
        title="mini-ImageNet",
        summary="100 ImageNet classes of 600 photographs; the images must be brought by the user",
        licence="ImageNet terms of access: non-commercial research, no redistribution",
        citation="Vinyals, Blundell, Lillicrap, Kavukcuoglu, Wierstra: Matching networks for one "
        "shot learning. NeurIPS (2016); split: Ravi, Larochelle: Optimization as a model for "
        "few-shot learning. ICLR (2017)",
        url="https://www.image-net.org",
        shape=(3, 84, 84),
        classes=(64, 16, 20),
        checked="names and counts; there is no published checksum",
        loader="quickstudy.datasets.mini_imagenet:load",
        options=frozenset({"size", "strict"}),
    ),
    Card(
        name="caltech101",
        title="Caltech-101, few-shot",
        summary="photographs of 99 kinds of things, 30 of each, in a seeded split of our own",
        licence="CC BY 4.0",
        citation="Li, Andreeto, Ranzato, Perona: Caltech 101. CaltechDATA (2022), "
        "doi:10.22002/D1.20086",
        url="https://data.caltech.edu/records/mzrjq-6wc02",
        shape=(3, 84, 84),
        classes=(64, 15, 20),
        checked="archive and photographs, SHA-256",
        loader="quickstudy.datasets.caltech101:load",
        options=frozenset({"size", "download"}),
        downloads=True,
        size_bytes=137_414_764,
    ),
    Card(
        name="folder",
        title="A folder of images",
        summary="your own images: one folder per class, any size and mode",
        licence="yours",
        citation="yours",
        url="",
        shape=None,
        classes=None,
        loader="quickstudy.datasets.folders:load",
        options=frozenset({"size", "strict"}),
    ),
    Card(
        name="arrays",
        title="Arrays",
        summary="your own X and y: in memory, or in one .npz file",
        licence="yours",
        citation="yours",
        url="",
        shape=None,
        classes=None,
        loader="quickstudy.datasets.in_memory:load",
    ),
)

CARDS: dict[str, Card] = {card.name: card for card in _CARDS}
"""Every data set by name."""


def card(name: str) -> Card:
    """The card of data set ``name``; ValueError names the nearest ones where there is none."""
    if name not in CARDS:
        raise nearest("datasets", name, CARDS)
    return CARDS[name]
