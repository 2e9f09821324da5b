"""`clmle VERB ...`: the front door. Each verb is the `main` of one module."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version

from cluster_jobs.errors import ERROR_EXIT_CODE, run_job
from clustering.kmeans.faiss_installed import require_faiss
from data_shards.sources.registry import SOURCES

Job = Callable[[Sequence[str] | None], int]

# verb -> the module that does it, what it does
VERBS = {
    "import": (
        "data_shards.importer",
        f"images -> shards ({', '.join(SOURCES)})",
    ),
    "run": ("cluster_jobs.run", "train on this machine: Ray, clustering, DeepSpeed, report"),
    "evaluate": ("cluster_jobs.evaluate", "classify the test images again, spread over Ray"),
    "classify": ("cluster_jobs.classify", "image files -> classes, with a trained network"),
    "doctor": ("cluster_jobs.doctor", "what is installed, what works here, what to mend"),
    "recluster": ("cluster_jobs.recluster", "the clustering service alone, for a Ray cluster"),
    "embed": ("cluster_jobs.embed", "images -> embeddings by the weights of one snapshot"),
}

_HELP = """\
usage: clmle VERB ...

Deep learning on imbalanced face data with cluster-based large margins.

{verbs}

start here:
  clmle doctor
  clmle import digits --out data/digits_lt --long-tail-ratio 20
  clmle run --config configs/digits.yaml
  tensorboard --logdir runs/digits/tensorboard

your own images, one folder per class:
  clmle import image-folder PHOTOS --out data/mine
  clmle run --config configs/long_tail.yaml

clmle VERB --help tells a verb's options.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Hand the arguments to the verb's module and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    first = arguments[0] if arguments else ""
    if first in VERBS:
        return run_job(lambda argv: _start(first, argv), arguments[1:])
    if first in ("-h", "--help", "help"):
        sys.stdout.write(_help())
        return 0
    if first == "--version":
        sys.stdout.write(f"clmle {_version()}\n")
        return 0
    sys.stderr.write(_unknown(first) if first else _help())
    return ERROR_EXIT_CODE


def _start(verb: str, arguments: Sequence[str] | None) -> int:
    """Import the module of a verb, and run it."""
    if verb == "recluster":  # it imports FAISS, and would end in a traceback without it
        require_faiss()
    job: Job = importlib.import_module(VERBS[verb][0]).main
    return job(arguments)


def entry() -> None:
    """The console script."""
    sys.exit(main())


def _help() -> str:
    width = max(map(len, VERBS))
    lines = [f"  {verb:{width}}  {purpose}" for verb, (_, purpose) in VERBS.items()]
    return _HELP.format(verbs="\n".join(lines))


def _unknown(verb: str) -> str:
    near = difflib.get_close_matches(verb, VERBS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"verbs: {', '.join(VERBS)}"
    return f"clmle: unknown verb {verb!r}; {hint} (clmle --help tells more)\n"


def _version() -> str:
    try:
        return version("clmle")
    except PackageNotFoundError:
        return "(not installed; run from its source)"


if __name__ == "__main__":
    entry()
