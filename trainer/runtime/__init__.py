"""Ranks, the DeepSpeed engine, the feed of cluster tables, the stop flag."""
