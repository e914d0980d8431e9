"""Honest numbers: scores on the same tasks, intervals, and how they were obtained."""
