"""The stages that process single frames: backbone and pyramid."""
