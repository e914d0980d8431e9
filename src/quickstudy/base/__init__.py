"""What everything may use: trees of tensors, modules, atomic writing, the version."""
