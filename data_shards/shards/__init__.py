"""Tar shards with an index: samples, manifest, writer, readers."""
