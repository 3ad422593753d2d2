"""Reads, resizes and augments the images of frames."""
