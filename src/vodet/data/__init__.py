"""Reading, sampling and batching annotated videos."""
