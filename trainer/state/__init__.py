"""What a training run leaves behind: snapshots, checkpoints, metrics, the report."""
