"""Where tasks come from: classes, functions, and how tasks are numbered, split and batched."""
