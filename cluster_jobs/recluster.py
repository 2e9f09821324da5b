"""The clustering service of a run: for each new snapshot, embeds, clusters and publishes tables.

    clmle recluster --config digits
    ray job submit --working-dir . -- python -m cluster_jobs.recluster --config ...

It waits for the run's snapshots, always takes the newest, and ends on SIGTERM, or when the run's
report.json says that the training run is finished. Start it before, with or after the trainer, and
again after a failure; only one at a time. To train a finished run again from an older checkpoint
(`--resume PATH`), start the trainer first.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from cluster_jobs.errors import run_job
from cluster_jobs.ray_cluster.local_ray import ray_session
from cluster_jobs.ray_cluster.ray_watch import watched_ray
from cluster_jobs.service.heartbeat import BUSY_STATES, patience_seconds
from clustering.kmeans.faiss_installed import require_faiss
from data_shards.shards.manifest import Manifest
from trainer.config.command_line import config_parser, print_if_dry_run, resolved
from trainer.config.run_config import RunConfig
from trainer.config.tasks import load_manifest, read_manifest, resolve_tasks
from trainer.run.claim import claim_folder
from trainer.run.folder import RunFolder
from trainer.run.lock import SERVICE, claimed_alone

# Modules that import FAISS are imported in functions, once it is known to be installed.

_LOG_FORMAT = "%(asctime)s %(levelname)s %(message)s"


def main(argv: Sequence[str] | None = None) -> int:
    """The job."""
    options = _parse(argv)
    config, derived = resolved(options)
    if print_if_dry_run(options, config, derived):
        return 0
    require_faiss()
    logging.basicConfig(level=logging.INFO, format=_LOG_FORMAT, datefmt="%H:%M:%S")
    if options.plan:
        sys.stdout.write(run_plan(config, read_manifest(config), num_workers=options.workers))
        return 0
    manifest = load_manifest(config)
    run = RunFolder(config.run_path)
    busy = (
        f"another clustering service is running in {run.path}; let it run, or stop it first "
        "(its process id is in service.json)"
    )
    resolve_tasks(config, manifest)  # a mistake leaves the folder as it is
    with claimed_alone(
        run,
        SERVICE,
        lambda: claim_folder(run, config, fresh=False, holding=SERVICE),
        busy=busy,
    ):
        _serve(config, manifest, once=options.once)
    return 0


def _serve(config: RunConfig, manifest: Manifest, *, once: bool) -> None:
    from cluster_jobs.ray_cluster.executor import RayExecutor
    from cluster_jobs.service.service import Service
    from clustering.kmeans.backends import limit_threads

    limit_threads()
    gpus = config.launch.embed_gpus > 0
    with (
        ray_session(num_cpus=config.launch.ray_cpus, gpus=gpus),
        _sigterm_ends(),
        Service(config, manifest, RayExecutor(config)) as service,
    ):
        try:
            with (
                service.heartbeat.renewed(patience_seconds(config.cluster)),
                watched_ray(
                    lambda: service.heartbeat.state in BUSY_STATES,
                    on_lost=lambda: service.heartbeat("failed"),
                ),
            ):
                service.serve_once() if once else service.serve()
        except SystemExit:
            service.heartbeat("stopped")
            raise
        except BaseException:
            service.heartbeat("failed")
            raise
        service.heartbeat("done")


def run_plan(config: RunConfig, manifest: Manifest, *, num_workers: int | None) -> str:
    """How the classes of each task would be clustered; reads no image and no embedding.

    Args:
        config: the run.
        manifest: of its shards, which gives the sizes of the classes.
        num_workers: of one CPU each; None for those of the Ray cluster.

    Raises:
        JobError: Ray does not answer.
        ClusterError: a class has no sample.
    """
    from cluster_jobs.service.refresh import SPLIT
    from clustering.execution.plan import make_plan
    from clustering.execution.ray_workers import RayWorkers

    tasks = resolve_tasks(config, manifest)
    class_sizes = [manifest.class_counts(SPLIT, task.label) for task in tasks]
    num_nodes, object_store_bytes = 1, None
    if num_workers is None:
        with ray_session(num_cpus=config.launch.ray_cpus):
            workers = RayWorkers(config.cluster, class_sizes=class_sizes)
            num_workers = workers.num_workers
            num_nodes, object_store_bytes = workers.num_nodes, workers.object_store_bytes
    reports = [
        f"task {task.name}: "
        + make_plan(
            sizes,
            config.cluster,
            num_workers=num_workers,
            dim=config.model.embedding_dim,
            num_nodes=num_nodes,
            object_store_bytes=object_store_bytes,
        ).describe()
        for task, sizes in zip(tasks, class_sizes, strict=True)
    ]
    return "\n".join(reports)


@contextmanager
def _sigterm_ends() -> Iterator[None]:
    """Inside the block, SIGTERM unwinds the stack and ends the process with code 0."""
    stopped = False

    def on_sigterm(number: int, frame: object) -> None:
        nonlocal stopped
        stopped = True
        sys.exit(0)

    previous = signal.signal(signal.SIGTERM, on_sigterm)
    try:
        yield
    except BaseException:
        if stopped:
            sys.exit(0)  # Ray wraps it, or changes its code, while waiting for a call
        raise
    finally:
        signal.signal(signal.SIGTERM, previous)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = config_parser("clmle recluster", __doc__)
    parser.add_argument("--once", action="store_true", help="serve the newest snapshot, then stop")
    parser.add_argument(
        "--plan", action="store_true", help="print how the classes would be clustered, and stop"
    )
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="with --plan: for N workers, without asking Ray",
    )
    options = parser.parse_args(argv)
    if options.workers is not None and (not options.plan or options.workers < 1):
        parser.error(f"--workers needs --plan and a number >= 1, got {options.workers}")
    return options


if __name__ == "__main__":
    sys.exit(run_job(main))
