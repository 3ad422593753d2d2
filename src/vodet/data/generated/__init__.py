"""Generates a small data set of moving, textured shapes."""
