"""What depends on one frame alone: backbone and pyramid."""
