"""`clmle import`: images of a source become shards that the other parts read."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from data_shards.errors import INTERRUPTED, DataError, exit_code_and_message, named
from data_shards.importing.long_tail import imbalance_ratio
from data_shards.importing.plan import ImportOptions, ImportPlan, plan_import
from data_shards.importing.run import write_import
from data_shards.options import OptionParser
from data_shards.progress import Progress
from data_shards.shards.manifest import Manifest, verify_shard
from data_shards.sources.base import Source
from data_shards.sources.registry import SOURCES, find_source, read_source

_EXAMPLES = """\
examples:
  the digits that come with scikit-learn, class 9 with 1/20 of the images of class 0:
    clmle import digits --out data/digits --long-tail-ratio 20
  your own images, a folder per class (also split into train/, val/ and test/):
    clmle import image-folder photos --out data/photos --on-error skip
  Fashion-MNIST as a long tail from 1,000 images down to 10:
    clmle import idx fashion_mnist --out data/fashion --long-tail-ratio 100 --max-per-class 1000
  faces of people with ten images or more, one image in five for testing:
    clmle import lfw lfw.tgz --out data/lfw --min-images 10 --test-fraction 0.2
  UTKFace with one woman to ten men; race, age_decade and age60 stay as further labels:
    clmle import utkface UTKFace.tar.gz --out data/gender10 --label gender --long-tail-ratio 10
  the same, with a tenth of the other images set aside for choosing settings:
    clmle import utkface UTKFace.tar.gz --out data/utk --on-error skip --validation-fraction 0.1
  CelebA with its forty attributes and official splits:
    clmle import celeba CelebA --out data/celeba
  compare every byte of an import with its checksums:
    clmle import --verify data/lfw

The summary at the end says how many images were skipped, and names the first ones. 16-bit grey
images are scaled to 8 bits by dividing by 257; floating-point images cannot be used.
An import that was stopped continues where it was when the same command runs again.
"""


_GO_ON = "; the same command continues where it stopped"


def import_source(source: Source, options: ImportOptions) -> Manifest:
    """Import the images of a source.

    Raises:
        DataError: on images, options or a folder that cannot be used; the message says which.
    """
    return write_import(plan_import(source, options), options)


def describe_import(manifest: Manifest, plan: ImportPlan) -> str:
    """Return the summary of an import: counts, imbalance, what is missing, the folder."""
    column = manifest.label_columns[0]
    lines = [f"{manifest.folder}: {plan.source}, {manifest.num_classes(column):,} classes"]
    if len(manifest.label_columns) > 1:
        lines[0] += f" of {column} (also labelled: {named(manifest.label_columns[1:])})"
    for name, split in manifest.splits.items():
        counts = manifest.class_counts(name, column)
        lines.append(
            f"  {name}: {split.num_samples:,} images, {len(split.shards):,} shard(s), "
            f"{counts.min():,} to {counts.max():,} a class, "
            f"imbalance ratio {imbalance_ratio(counts):.1f}"
        )
    got = manifest.class_counts("train", column)
    fewer = [
        f"{name!r} {have:,} of {wanted:,}"
        for name, have, wanted in zip(
            manifest.label_names[column], got, plan.wanted_counts, strict=True
        )
        if have < wanted
    ]
    if plan.dropped_classes:
        dropped = plan.dropped_classes
        lines.append(
            f"  left out {len(dropped):,} class(es) with fewer than "
            f"{plan.settings['min_images']:,} images: {named(dropped)}"
        )
    if fewer and plan.settings["long_tail_ratio"] > 1:
        lines.append(f"  fewer images than the long tail asked for: {named(fewer)}")
    if manifest.skipped:
        skipped = manifest.skipped
        lines.append(f"  skipped {len(skipped):,} image(s) that cannot be used: {named(skipped)}")
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Import images, or verify an import. Launch: `clmle import --help`."""
    arguments = _parser().parse_args(argv)
    try:
        sys.stdout.write(_import(arguments) if arguments.verify is None else _verify(arguments))
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - raised again if a bug
        code, message = exit_code_and_message(error)
        sys.stderr.write(f"clmle import: {message}{_GO_ON if code == INTERRUPTED else ''}\n")
        return code
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = OptionParser(
        prog="clmle import",
        usage="clmle import SOURCE [PATH] --out DIR [options]\n       clmle import --verify DIR",
        description="Turn images into the shards that training, clustering and evaluation read.",
        epilog=f"{_source_lines()}\n{_EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("source", nargs="?", metavar="SOURCE", help=", ".join(SOURCES))
    add("path", nargs="?", metavar="PATH", type=Path, help="folder or file of the source's images")
    add("--out", metavar="DIR", type=Path, help="folder to fill")
    _add_class_options(parser)
    _add_split_options(parser)
    _add_writing_options(parser)
    add("--verify", metavar="DIR", type=Path, help="check an import instead of making one")
    return parser


def _source_lines() -> str:
    """What each source expects at PATH, one line each."""
    width = max(map(len, SOURCES))
    lines = [f"  {name:{width}}  {entry.layout}" for name, entry in SOURCES.items()]
    return "\n".join(
        [
            "sources, and what to have at PATH:",
            *lines,
            "  A quarter of each class becomes the test split where a source has none of its own.",
            "",
        ]
    )


def _add_class_options(parser: argparse.ArgumentParser) -> None:
    """Which classes, and how many images of each."""
    add = parser.add_argument
    add(
        "--long-tail-ratio",
        type=float,
        default=1.0,
        metavar="R",
        help="thin the training images so that class 0 has R times those of the last class",
    )
    add("--max-per-class", type=int, metavar="N", help="at most N training images of each class")
    add(
        "--min-images",
        type=int,
        default=1,
        metavar="N",
        help="leave out classes with fewer images than N",
    )
    add(
        "--label",
        metavar="COLUMN",
        help="label column that comes first: it decides class order, long tail and splits, and is "
        "what a run trains on unless told otherwise (default: the source's first)",
    )


def _add_split_options(parser: argparse.ArgumentParser) -> None:
    """Which images are held out."""
    add = parser.add_argument
    add(
        "--test-fraction",
        type=float,
        metavar="F",
        help="share of test images where the source has no test split (default 0.25; 0: none)",
    )
    add(
        "--validation-fraction",
        type=float,
        default=0.0,
        metavar="F",
        help="share of the remaining images for a validation split (default 0: none), drawn "
        "before the long tail is thinned",
    )
    add("--seed", type=int, default=0, metavar="S", help="seed of every random choice (default 0)")


def _add_writing_options(parser: argparse.ArgumentParser) -> None:
    """How the shards are written."""
    add = parser.add_argument
    add(
        "--samples-per-shard",
        type=int,
        default=2000,
        metavar="N",
        help="images of a shard, a tar that one worker embeds at a time (default 2000): fewer keep "
        "more workers busy on a small data set, more make fewer files of a large one",
    )
    add(
        "--on-error",
        choices=("stop", "skip"),
        default="stop",
        help="what to do at an image that cannot be read (default stop); skipped ones are listed",
    )


def _import(arguments: argparse.Namespace) -> str:
    if arguments.source is not None:
        find_source(arguments.source)
    if arguments.source is None or arguments.out is None:
        raise DataError("say what to import, and where to: clmle import SOURCE [PATH] --out DIR")
    options = ImportOptions(
        out=arguments.out,
        long_tail_ratio=arguments.long_tail_ratio,
        max_per_class=arguments.max_per_class,
        min_images=arguments.min_images,
        test_fraction=arguments.test_fraction,
        validation_fraction=arguments.validation_fraction,
        label=arguments.label,
        seed=arguments.seed,
        samples_per_shard=arguments.samples_per_shard,
        on_error=arguments.on_error,
    )
    plan = plan_import(read_source(arguments.source, arguments.path), options)
    return describe_import(write_import(plan, options), plan)


def _verify(arguments: argparse.Namespace) -> str:
    if arguments.source is not None or arguments.out is not None:
        raise DataError("--verify takes neither SOURCE nor --out: clmle import --verify DIR")
    folder: Path = arguments.verify
    manifest = Manifest.load(folder)
    shards = [shard for split in manifest.splits.values() for shard in split.shards]
    with Progress(len(shards), label=f"verify {folder}", unit="shards") as progress:
        for shard in shards:
            verify_shard(manifest, shard)
            progress.update()
    num_samples = sum(shard.num_samples for shard in shards)
    return f"{folder} is intact: {num_samples:,} images in {len(shards):,} shard(s)\n"


if __name__ == "__main__":
    sys.exit(main())
