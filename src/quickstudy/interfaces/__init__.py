"""Doors: the command line, run folders, the scikit-learn estimator."""
