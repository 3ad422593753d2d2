"""Annotation files and what is known of a data set before a frame is read."""
