"""Exports detectors, with their temporal memory, as programs that run without Python."""
