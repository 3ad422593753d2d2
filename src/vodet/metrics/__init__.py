"""Metrics of video object detection."""
