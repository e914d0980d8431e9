"""How stacks of tasks become losses and gradients."""
