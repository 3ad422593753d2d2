"""The HTML report of one evaluation, or of several evaluations of the same data."""
