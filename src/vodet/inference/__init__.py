"""Around the network: postprocessing, drawing, video files."""
