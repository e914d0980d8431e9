"""Learners that compare queries with the support set in a feature space."""
