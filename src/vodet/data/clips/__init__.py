"""Clips for training and chunks of whole videos for evaluation."""
