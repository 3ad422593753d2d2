"""Temporal fusion: one file a method."""
