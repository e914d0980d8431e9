"""Learners of many tasks at once: what they share, and what each has for itself."""
