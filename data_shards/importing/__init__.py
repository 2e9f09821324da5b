"""From a source to shards: the plan of an import, and the import itself."""
