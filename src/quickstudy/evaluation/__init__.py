"""Evaluation: scores on reproducible tasks, confidence intervals, calibration."""
