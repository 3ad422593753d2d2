"""Reads, indexes and describes annotation files, without opening any image."""
