"""Learners: one file each, written for one task, in the paper's own equations."""
