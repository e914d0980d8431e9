"""Helpers for all packages: trees of tensors, modules, row weights, errors, atomic writes."""
