"""Evaluation of detectors on whole videos."""
