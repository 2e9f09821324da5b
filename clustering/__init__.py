"""Vectors, labels, tables: per-class k-means, the cluster table and its store, kNC scores."""
