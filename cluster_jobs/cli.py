"""`clmle VERB ...`: the command line. Each verb is the `main` of one module."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version

from cluster_jobs.errors import run_job
from data_shards.errors import MISTAKE
from data_shards.sources.registry import SOURCES

Job = Callable[[Sequence[str] | None], int]

# The one line that a verb needs: its module, which has `main(argv) -> exit code`, and its purpose.
VERBS = {
    "import": (
        "data_shards.importer",
        f"images -> shards ({', '.join(SOURCES)})",
    ),
    "run": ("cluster_jobs.run", "train on this machine: Ray, clustering, DeepSpeed, report"),
    "evaluate": ("cluster_jobs.evaluate", "classify the test images again, spread over Ray"),
    "classify": ("cluster_jobs.classify", "image files -> classes, with a trained network"),
    "doctor": ("cluster_jobs.doctor", "what is installed, what works here, how to fix the rest"),
    "recluster": ("cluster_jobs.recluster", "the clustering service alone, on a Ray cluster"),
    "embed": ("cluster_jobs.embed", "images -> embeddings by the weights of one snapshot"),
}

# What people type who know other tools -> what they mean here.
_ALIASES = {
    "train": "run",
    "fit": "run",
    "start": "run",
    "resume": "run",
    "test": "evaluate",
    "eval": "evaluate",
    "validate": "evaluate",
    "predict": "classify",
    "infer": "classify",
    "inference": "classify",
    "cluster": "recluster",
    "service": "recluster",
    "embeddings": "embed",
    "check": "doctor",
    "data": "import",
}

_HELP = """\
usage: clmle VERB ...

Deep learning on imbalanced face data with cluster-based large margins.

{verbs}

start here:
  clmle doctor
  clmle import digits --out data/digits_lt --long-tail-ratio 20
  clmle run --config digits
  tensorboard --logdir runs/digits/tensorboard

your own images, one folder per class:
  clmle import image-folder PHOTOS --out data/mine
  clmle run --config long_tail

clmle VERB --help shows the options of a verb.
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
    return MISTAKE


def _start(verb: str, arguments: Sequence[str] | None) -> int:
    """Import the module of a verb, and run it."""
    job: Job = importlib.import_module(VERBS[verb][0]).main
    return job(arguments)


def entry() -> None:
    """The console script."""
    sys.exit(main())


def _help() -> str:
    width = max(map(len, VERBS))
    lines = [f"  {verb:{width}}  {purpose}" for verb, (_, purpose) in VERBS.items()]
    return _HELP.format(verbs="\n".join(lines))


def _unknown(word: str) -> str:
    meant = _meant(word)
    hint = f"did you mean `clmle {meant}`?" if meant else f"verbs: {', '.join(VERBS)}"
    return f"clmle: unknown verb {word!r}; {hint} (see clmle --help)\n"


def _meant(word: str) -> str | None:
    """The verb, or import of a source, that a word stands for or resembles; None if none does."""
    known = {verb: verb for verb in VERBS} | _ALIASES
    known |= {source: f"import {source}" for source in SOURCES}
    written = word.lower().lstrip("-").replace("_", "-")
    near = [written] if written in known else difflib.get_close_matches(written, known, n=1)
    return known[near[0]] if near else None


def _version() -> str:
    try:
        return version("clmle")
    except PackageNotFoundError:
        return "(not installed; run from its source)"


if __name__ == "__main__":
    entry()
