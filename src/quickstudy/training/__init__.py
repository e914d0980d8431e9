"""Training over many tasks: fit, plans, optimisers, schedules, checkpoints and the log."""
