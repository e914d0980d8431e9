"""Learners on features and weights that were learnt elsewhere."""
