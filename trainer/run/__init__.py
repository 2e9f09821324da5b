"""A run's folder: its layout, its locks, what a training run starts from. No torch."""
