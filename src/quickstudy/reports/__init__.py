"""Results -> text, figure, one self-contained HTML page: pure functions.

views        one task as a learner answers it, in numbers: by the answer that it asks for
protocols    what a learner may let reports see of it
insights     what the learner did with one task, in numbers: what moved, what it looked at
plots        figures (matplotlib) of a training log, of scores, of views
page         the HTML report of a run
tables       tables for the terminal and for Markdown
tensorboard  metrics.jsonl -> files that TensorBoard shows
"""
