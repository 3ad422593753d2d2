"""Annotation files: reading, indexing and describing them without opening an image."""
