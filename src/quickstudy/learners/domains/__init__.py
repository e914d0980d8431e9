"""Learners from source domains and a target: alignment, weights of rows, a choice of what to use."""
