"""Video and image files: reading, writing, and pictures that give out crops."""
