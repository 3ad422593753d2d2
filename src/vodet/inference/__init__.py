"""Runs detectors on videos: reading, postprocessing, tubelet linking, drawing and writing."""
