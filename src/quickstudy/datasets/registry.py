"""The list of data sets: name, licence, size, citation. Importing it imports no data set."""

from __future__ import annotations

from quickstudy.base.names import unknown_name
from quickstudy.datasets.card import Card as Card
from quickstudy.datasets.card import Checksum as Checksum
from quickstudy.datasets.card import PublishedError as PublishedError

_CARDS = (
    Card(
        name="glyphs",
        title="Glyphs",
        summary="printed characters of many scripts, rendered from fonts; test scripts are new",
        licence="fonts: Bitstream Vera and DejaVu licence, STIX font licence",
        citation="DejaVu Fonts 2.37; STI Pub, STIX Fonts 1.0; both as shipped with matplotlib",
        url="https://matplotlib.org",
        shape=(1, 28, 28),
        classes=(1411, 158, 434),
        checked="the rendered images, SHA-256 of the cache",
        loader="quickstudy.datasets.glyphs:load",
        resize="area",
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
        checked="downloads, MD5 (none better is published); all decoded drawings, SHA-256",
        checksum=(
            Checksum("images_background.zip", "md5", "68d2efa1b9178cc56df9314c21c6e718"),
            Checksum("images_evaluation.zip", "md5", "6b91aef0f799c5bb55b94e3f2daec811"),
            Checksum(
                "drawings of images_background",
                "sha256",
                "8604df40adc8e4ff79e99980d28e709a2dff63a0001562373c000dc08f25f9fa",
            ),
            Checksum(
                "drawings of images_evaluation",
                "sha256",
                "59c96741ae5daf300ee45bfe15fe0496fe9ed562f1b3b7fbb2b83a311188bdc4",
            ),
        ),
        loader="quickstudy.datasets.omniglot:load",
        resize="area",
        options=frozenset({"rotations", "size", "split", "download"}),
        splits=("vinyals", "lake"),
        downloads=True,
        size_bytes=9_464_212 + 6_462_886,
    ),
    Card(
        name="lake_runs",
        title="Lake's one-shot runs",
        summary="the 20 published 20-way one-shot test tasks of Omniglot, to evaluate on",
        licence="MIT",
        citation="Lake, Salakhutdinov, Tenenbaum: Human-level concept learning through "
        "probabilistic program induction. Science 350 (2015)",
        url="https://github.com/brendenlake/omniglot",
        shape=(1, 28, 28),
        classes=None,
        checked="archive, and all drawings with their classes, SHA-256",
        checksum=(
            Checksum(
                "all_runs.zip",
                "sha256",
                "437c1eeab0af8484112e1b4cc0f3d541ec727f7c47b9b202da738af9dfd6c325",
            ),
            Checksum(
                "drawings and their classes",
                "sha256",
                "2eafac2f04ad095e75369f9d3bf486e189a6da0fb99e937a73a78ce4263ab876",
            ),
        ),
        loader="quickstudy.datasets.lake_runs:load",
        options=frozenset({"size", "shuffled", "download"}),
        downloads=True,
        size_bytes=352_787,
        published=(
            PublishedError(
                "pixels by modified Hausdorff distance",
                38.8,
                "the baseline that comes with the runs",
            ),
            PublishedError("Siamese network", 8.0, "Koch et al., 2015"),
            PublishedError("people", 4.5, "Lake et al., 2015"),
            PublishedError("Bayesian program learning", 3.3, "Lake et al., 2015"),
        ),
        trained_on=(("omniglot", "vinyals"),),
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
        checksum=(
            Checksum(
                "cifar-100-binary.tar.gz",
                "sha256",
                "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
            ),
            Checksum(
                "train.bin",
                "sha256",
                "f31298fc616915fa142368359df1c4ca2ae984d6915ca468b998a5ec6aeebf29",
            ),
            Checksum(
                "test.bin",
                "sha256",
                "d8b1e6b7b3bee4020055f0699b111f60b1af1e262aeb93a0b659061746f8224a",
            ),
        ),
        loader="quickstudy.datasets.cifar_fs:load",
        options=frozenset({"download"}),
        downloads=True,
        size_bytes=168_513_733,
    ),
    Card(
        name="mini_imagenet",
        title="mini-ImageNet",
        summary="100 ImageNet classes of 600 photographs; the user must provide the images",
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
        summary="photographs of 99 kinds of objects, 30 of each, in a random split of quickstudy",
        licence="CC BY 4.0",
        citation="Li, Andreeto, Ranzato, Perona: Caltech 101. CaltechDATA (2022), "
        "doi:10.22002/D1.20086",
        url="https://data.caltech.edu/records/mzrjq-6wc02",
        shape=(3, 84, 84),
        classes=(64, 15, 20),
        checked="archive and photographs, SHA-256",
        checksum=(
            Checksum(
                "caltech-101.zip",
                "sha256",
                "331234750fc7f77520e50d9565e8b6907b03565e30320da1401130db08c61f91",
            ),
            Checksum(
                "photographs",
                "sha256",
                "40f11ad670e8700b380cb8b9fa83bdc9e20a2b9ecdea1da77aa6a0ec77ec80b8",
            ),
        ),
        loader="quickstudy.datasets.caltech101:load",
        options=frozenset({"size", "download"}),
        downloads=True,
        size_bytes=137_414_764,
    ),
    Card(
        name="newsgroup_pairs",
        title="Newsgroup pairs",
        summary="posts of two top categories as word counts; source and target are of different "
        "subcategories",
        licence="GPL-3.0, of the repository; the posts are their authors'",
        citation="Zhou, Chen, Ye: MALSAR, multi-task learning via structural regularization "
        "(2011); posts of 20 Newsgroups, Lang (1995)",
        url="https://github.com/jiayuzhou/MALSAR/tree/master/data/Newsgroup",
        shape=None,
        classes=None,
        checked="all four files, SHA-256",
        checksum=(
            Checksum(
                "rec_vs_talk_1.mat",
                "sha256",
                "2ccc2c933adb5e9a88524e0d0a90022ee925e3395fead485c2d7d31a14149997",
            ),
            Checksum(
                "rec_vs_talk_2.mat",
                "sha256",
                "162fe06ddbad645577a2c538645f72115416811f8ee6dffc2fe2944a1c632e08",
            ),
            Checksum(
                "comp_vs_sci_1.mat",
                "sha256",
                "136e73185215cdc5fe7af4c2e0d86dae9da864e119fef95253ef6614d139d7ab",
            ),
            Checksum(
                "comp_vs_sci_2.mat",
                "sha256",
                "efafdffe36f05668f9cd638cbfad45a96b6e69e385a65fb7a24dda6082adec52",
            ),
        ),
        loader="quickstudy.datasets.newsgroup_pairs:load",
        size_bytes=251_693 + 184_593 + 233_347 + 209_328,
        domains=("rec_vs_talk_1", "rec_vs_talk_2", "comp_vs_sci_1", "comp_vs_sci_2"),
    ),
    Card(
        name="mushrooms",
        title="Mushrooms",
        summary="edible or poisonous, by 126 yes-or-no properties; two domains by stalk shape",
        licence="Apache-2.0, of the repository",
        citation="Schlimmer: Mushroom data set. UCI Machine Learning Repository (1987)",
        url="https://github.com/dmlc/xgboost/tree/master/demo/data",
        shape=None,
        classes=None,
        checked="both files, SHA-256",
        checksum=(
            Checksum(
                "agaricus.txt.train",
                "sha256",
                "915c2def06e9b44a306ad097fe8b6652c7c477d9c1e605bd2130ad20a70a8ad6",
            ),
            Checksum(
                "agaricus.txt.test",
                "sha256",
                "765db79391141953d890ce197fe828a621d6487fbba4de5e4d2217bd140371c0",
            ),
        ),
        loader="quickstudy.datasets.mushrooms:load",
        domains=("enlarging", "tapering"),
    ),
    Card(
        name="clinc150",
        title="CLINC150",
        summary="requests to an assistant, 150 intents of 150 English texts each, in 10 domains",
        licence="CC BY 3.0",
        citation="Larson et al.: An evaluation dataset for intent classification and out-of-scope "
        "prediction. EMNLP-IJCNLP (2019)",
        url="https://github.com/clinc/oos-eval",
        shape=None,
        classes=(90, 30, 30),
        checked="the file, SHA-256",
        checksum=(
            Checksum(
                "data_full.json",
                "sha256",
                "36923c3705a59e08fe9c3883d8bc2dd966ef93e22cb78ac41171782a698d56e0",
            ),
        ),
        loader="quickstudy.datasets.clinc150:load",
        options=frozenset({"split", "download"}),
        splits=("intents", "domains"),
        downloads=True,
        size_bytes=2_495_390,
        texts=True,
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
        options=frozenset({"size", "strict", "fractions", "split_seed", "ways"}),
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
        options=frozenset({"fractions", "split_seed", "ways"}),
    ),
)

CARDS: dict[str, Card] = {card.name: card for card in _CARDS}
"""Every data set by name."""


def card(name: str) -> Card:
    """The card of data set ``name``; else ValueError with the nearest names."""
    if name not in CARDS:
        raise unknown_name("datasets", name, CARDS)
    return CARDS[name]
