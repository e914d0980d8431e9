"""Runs: from a recipe to a folder with a trained learner, its evaluation and a report."""
