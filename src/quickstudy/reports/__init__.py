"""Reports: pure functions from results to text, figures and one self-contained HTML page.

views        the predictions of a learner for one task, as arrays
protocols    optional methods by which a learner shows reports more than predictions
insights     how a learner adapted to one task, as arrays: changed weights, rates, attention
plots        figures (matplotlib) of a training log, of scores, of views
page         the HTML report of a run
comparison_page  the HTML report of a comparison of learners
tables       tables for the terminal and for Markdown
tensorboard  metrics.jsonl -> files for TensorBoard
"""
