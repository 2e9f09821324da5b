"""Reads image shards in order, with WebDataset."""

from __future__ import annotations

from collections.abc import Iterator

from webdataset.tariterators import group_by_keys, tar_file_expander

from data_shards.errors import DataError
from data_shards.shards.manifest import Manifest, verify_shard
from data_shards.shards.sample import Sample


def read_shard(
    manifest: Manifest, split: str, shard_number: int, verify: bool = True
) -> Iterator[Sample]:
    """Yield the samples of one shard in order; images are not decoded.

    Nothing is split over ranks or workers here: the caller assigns the shards.

    Args:
        manifest: of the folder.
        split: such as "train".
        shard_number: 0 .. number of the split's shards - 1.
        verify: compare the checksums of the shard's files first.

    Raises:
        DataError: when there is no such shard, or a file of it is damaged; names the file.
    """
    shards = manifest.split(split).shards
    if not 0 <= shard_number < len(shards):
        raise DataError(
            f"a shard of split {split!r} of {manifest.folder} must be 0..{len(shards) - 1}, "
            f"got {shard_number}"
        )
    shard = shards[shard_number]
    if verify:
        verify_shard(manifest, shard)
    path = manifest.folder / shard.tar_name
    with path.open("rb") as stream:
        # These two are how WebDataset reads tars; its decoders, which may unpickle, are not used.
        files = tar_file_expander([{"url": str(path), "stream": stream}])
        for members in group_by_keys(files):
            yield Sample.from_members(members)
