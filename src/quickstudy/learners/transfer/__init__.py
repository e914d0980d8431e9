"""Learners that reuse features learnt elsewhere."""
