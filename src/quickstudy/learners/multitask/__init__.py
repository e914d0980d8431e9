"""Learners that hold parameters for the tasks they know by name, and adapt to any other task."""
