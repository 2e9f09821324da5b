"""Samples, labels, files: image shards in WebDataset tars, their index, embedding shards."""
