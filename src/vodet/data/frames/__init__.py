"""Images: reading, resizing, augmenting."""
