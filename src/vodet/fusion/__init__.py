"""Temporal fusion: one file per method."""
