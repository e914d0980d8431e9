"""Runs: a recipe becomes a folder with a trained learner, its evaluation and a report."""
