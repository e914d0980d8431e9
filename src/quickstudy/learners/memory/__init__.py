"""Learners that read their support set into a memory, a sequence or a set."""
