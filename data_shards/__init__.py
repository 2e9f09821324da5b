"""Samples, labels, files: image shards in WebDataset tars, their index, embedding shards."""

from __future__ import annotations

from data_shards.public_names import imported_when_used

_MODULES = {
    "ClmleError": "data_shards.errors",
    "ConfigError": "data_shards.errors",
    "DataError": "data_shards.errors",
    "EmbeddingShards": "data_shards.features.embeddings",
    "ImportOptions": "data_shards.importing.plan",
    "Manifest": "data_shards.shards.manifest",
    "Sample": "data_shards.shards.sample",
    "SampleIndex": "data_shards.shards.index",
    "Source": "data_shards.sources.base",
    "SourceItem": "data_shards.sources.base",
    "decode_image": "data_shards.images.transforms",
    "import_source": "data_shards.importer",
    "read_shard": "data_shards.shards.reader",
    "read_source": "data_shards.sources.registry",
    "write_shard": "data_shards.shards.writer",
}
"""Public name -> the module that holds it, imported when the name is first used."""

__all__ = sorted(_MODULES)

__getattr__, __dir__ = imported_when_used(__name__, _MODULES)
