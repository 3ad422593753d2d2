"""Reads annotated videos, draws clips from them, and builds batches."""
