"""Learning from many tasks: the engine, the trainer and checkpoints."""
