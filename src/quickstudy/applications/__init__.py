"""Applications: what ties task sources, an answer and a default learner to one practical use.

application   what every application gives: a run's parts, reading a user's files, writing answers
registry      their cards, read without torch: which name of ``quickstudy run --data`` is whose

Each application is one file, with its card ``<name>.toml`` beside it.
"""
