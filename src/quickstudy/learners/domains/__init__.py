"""Learners from source domains and a target: alignment, weights of rows, what to use."""
