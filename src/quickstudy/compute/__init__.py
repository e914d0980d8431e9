"""The engine: computes losses and gradients of stacks of tasks."""
