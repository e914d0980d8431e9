"""What is known of a data set without loading it: its card. Importing this imports no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Checksum:
    """The expected ``digest`` (hexadecimal) of ``what``, a file or its unpacked content."""

    what: str
    algorithm: str
    digest: str

    def __str__(self) -> str:
        return f"{self.what} {self.algorithm}:{self.digest}"


@dataclass(frozen=True)
class PublishedError:
    """The error, in %, of a method on published test tasks, and where it was published."""

    method: str
    percent: float
    reference: str

    def __str__(self) -> str:
        return f"{self.method} {self.percent:.1f}% ({self.reference})"


@dataclass(frozen=True)
class Card:
    """Facts about a data set, available without loading it.

    ``name``        the name for :func:`quickstudy.datasets.load`.
    ``title``       the name in prose.
    ``summary``     one sentence.
    ``licence``     of the data, as far as its publisher states one.
    ``citation``    the publication to cite.
    ``url``         web page of the source.
    ``resize``      how its pictures were reduced, "area" for drawings or "bicubic"; other pictures
                    are reduced alike for a learner that was trained on it.
    ``shape``       of one input, (channels, height, width); None where it depends on the source.
    ``classes``     of the train, validation and test split; None where it depends on the source.
    ``loader``      the function that loads it, ``module:function``.
    ``options``     the options of :func:`~quickstudy.datasets.load` that it takes.
    ``splits``      the names of its splits, the default first.
    ``downloads``   whether the library downloads it; otherwise the user provides the files.
    ``checked``     what is verified before the data are used, and how.
    ``checksum``    the expected checksums; empty where every copy differs.
    ``size_bytes``  of the archives to provide or to download; 0 where none is needed.
    ``published``   error in % of methods on these tasks, for published test tasks; they are loaded
                    by :func:`~quickstudy.datasets.load_tasks`.
    ``trained_on``  data sets, with their splits, whose training classes include classes of these
                    tasks, so that a learner trained on them cannot be compared.
    ``domains``     the names of its domains, for data of several; these are loaded by
                    :func:`~quickstudy.datasets.load_domains`.
    ``texts``       whether its inputs are tokens of texts, which
                    :func:`~quickstudy.datasets.load_texts` gives as they are.
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
    resize: str = "bicubic"
    options: frozenset[str] = frozenset()
    splits: tuple[str, ...] = ()
    downloads: bool = False
    checked: str = ""
    checksum: tuple[Checksum, ...] = ()
    size_bytes: int = 0
    published: tuple[PublishedError, ...] = ()
    trained_on: tuple[tuple[str, str], ...] = ()
    domains: tuple[str, ...] = ()
    texts: bool = False

    def digest(self, what: str) -> str:
        """The hexadecimal digest expected of ``what``; KeyError where the card states none."""
        return {each.what: each.digest for each in self.checksum}[what]
