"""A run's folder: what lies where in it, who may write, where a training run starts. No torch."""
