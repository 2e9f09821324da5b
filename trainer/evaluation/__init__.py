"""From embeddings to balanced accuracy: read-outs, exact counts, reports."""
