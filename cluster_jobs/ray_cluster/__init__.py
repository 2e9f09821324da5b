"""The local Ray cluster, its health, and the workers that embed."""
