"""`clmle import`: images of a source become shards that the other parts read."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from data_shards.errors import INTERRUPTED, DataError, exit_code_and_message
from data_shards.images.limits import add_limit_options, limits_of
from data_shards.importing.plan import ImportOptions, ImportPlan
from data_shards.importing.prepare import prepare_import
from data_shards.importing.run import check_free, write_import
from data_shards.importing.summary import describe_import
from data_shards.options import OptionParser
from data_shards.paths import path_option
from data_shards.progress import Progress
from data_shards.shards.manifest import Manifest, verify_shard
from data_shards.sources.base import Source
from data_shards.sources.registry import SOURCES, find_source, read_source
from data_shards.streams import write_any_name

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
  UTKFace, each face once, without the images whose names lack a label:
    clmle import utkface UTKFace.tar.gz --out data/utk --on-error skip --duplicates drop
  faces with a tenth of the images that are not for testing set aside for choosing settings:
    clmle import lfw lfw.tgz --out data/lfw_chosen --min-images 10 --validation-fraction 0.1
  photos that lie in YEAR/CLASS/:
    clmle import image-folder archive --out data/archive --class-depth 2
  CelebA with its forty attributes and official splits:
    clmle import celeba CelebA --out data/celeba
  compare every byte of an import with its checksums:
    clmle import --verify data/lfw

Names of folders and files need not be UTF-8: their odd bytes become \\xe9 or the like.
The summary at the end says how many images were skipped, and names the first ones. 16-bit grey
images are scaled to 8 bits by dividing by 257, 32-bit TIFFs unless they hold nothing above 255;
floating-point images cannot be used. Of an animation the first picture counts.
An import that was stopped continues where it was when the same command runs again.
"""


_GO_ON = "; the same command continues where it stopped"


def import_source(source: Source, options: ImportOptions) -> Manifest:
    """Import the images of a source.

    Raises:
        DataError: on images, options or a folder that cannot be used; the message says which.
    """
    return _plan_and_write(source, options)[1]


def main(argv: Sequence[str] | None = None) -> int:
    """Import images, or verify an import. Launch: `clmle import --help`."""
    write_any_name()
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
    add(
        "path",
        nargs="?",
        metavar="PATH",
        type=path_option,
        help="folder or file of the source's images",
    )
    add("--out", metavar="DIR", type=path_option, help="folder to fill")
    _add_class_options(parser)
    _add_split_options(parser)
    _add_writing_options(parser)
    add("--verify", metavar="DIR", type=path_option, help="check an import instead of making one")
    return parser


def _source_lines() -> str:
    """What each source expects at PATH, one line each."""
    width = max(map(len, SOURCES))
    lines = []
    for name, entry in SOURCES.items():
        lines.append(f"  {name:{width}}  {entry.layout}")
        lines += [f"  {'':{width}}  {line}" for line in textwrap.wrap(entry.more, 80)]
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
        "--class-depth",
        type=int,
        metavar="N",
        help="image-folder: classes are the folders at level N below PATH, or below its train/, "
        "test/ ...; 1 for CLASS/images, 2 for YEAR/CLASS/images (default 1, unless those folders "
        "do not look like classes: then it must be said)",
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
        help="what to do at an image that cannot be read, or a class without any (default stop); "
        "what is skipped is listed",
    )
    add(
        "--duplicates",
        choices=("stop", "keep", "drop"),
        default="stop",
        help="what to do with images of the same bytes: stop at those with different labels or in "
        "several splits (default), keep all, or drop: each stays once, in the test split if it is "
        "there, else in validation, else in train, and none stays of those with different labels",
    )
    add_limit_options(parser)


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
        duplicates=arguments.duplicates,
        limits=limits_of(arguments),
    )
    source = read_source(arguments.source, arguments.path, class_depth=arguments.class_depth)
    plan, manifest = _plan_and_write(source, options)
    return describe_import(manifest, plan)


def _plan_and_write(source: Source, options: ImportOptions) -> tuple[ImportPlan, Manifest]:
    check_free(options.out)  # before the images are looked at
    plan = prepare_import(source, options)
    return plan, write_import(plan, options)


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
