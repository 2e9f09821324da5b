"""What a training run runs on: ranks, DeepSpeed, incoming cluster tables, signals."""
