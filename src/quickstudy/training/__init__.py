"""Learning from many tasks: the engine, the trainer, objectives and checkpoints."""
