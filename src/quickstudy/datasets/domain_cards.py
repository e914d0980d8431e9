"""Cards of data sets of several domains, which ``load_domains`` loads."""

from __future__ import annotations

from quickstudy.datasets.cards import Card, Checksum

DOMAIN_CARDS = (
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
)
"""In the order in which they are listed."""
