"""Learners that read rows of sources and of a target: they align, weigh, or choose what to use."""
