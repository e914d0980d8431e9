"""Layers with hand-written derivatives."""
