"""Encoders of text: tokenised texts -> features."""
