"""Embedding shards: memory-mapped rows with ids and labels."""
