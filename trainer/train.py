"""Train. Every rank of a DeepSpeed launch runs this.

    deepspeed --num_gpus 8 --module trainer.train --config lfw10
    deepspeed --hostfile hosts --master_addr 10.0.0.1 --module trainer.train --config ...
    python -m trainer.train --config digits --set train.steps=100     (one rank)

Cluster tables come from `python -m cluster_jobs.recluster` (or `clmle recluster`) on the same run
folder; `clmle run` starts both on one machine.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from clustering.table import store
from data_shards.atomic import clear_leftovers
from data_shards.errors import FAILED, exit_code_and_message
from data_shards.shards.index import SampleIndex
from data_shards.shards.manifest import Manifest
from data_shards.streams import write_any_name
from trainer.config.command_line import (
    add_resume_option,
    config_parser,
    print_if_dry_run,
    resolved,
)
from trainer.config.run_config import RunConfig
from trainer.config.sections import TaskConfig
from trainer.config.tasks import (
    check_tables,
    classes_of_tasks,
    evaluated_split,
    evaluation_warning,
    load_manifest,
    resolve_tasks,
)
from trainer.config.yaml_file import recipe_lines
from trainer.errors import Stopped
from trainer.evaluation.ranks import RankEvaluator
from trainer.loop import Loop, Parts
from trainer.losses.objective import Objective, TaskTarget
from trainer.models.network import Network
from trainer.run.claim import claim_folder
from trainer.run.folder import RunFolder, is_service_given_up
from trainer.run.lock import TRAINER, claimed_alone
from trainer.run.start import check_start
from trainer.runtime.engine import Engine, start_distributed
from trainer.runtime.launcher import settle_rank
from trainer.runtime.precision import emulation_warning
from trainer.runtime.rank_watch import RankWatch
from trainer.runtime.stop import StopFlag, end_process
from trainer.runtime.table_feed import FeedState, TableFeed
from trainer.runtime.world import World
from trainer.sampling.batch_loader import BatchLoader
from trainer.state import checkpoint
from trainer.state.checkpoint import LoopState
from trainer.state.initial_weights import check_initial_weights, load_initial_weights
from trainer.state.metrics import MetricWriter
from trainer.state.report import stall_warning, write_report
from trainer.state.snapshot import NetworkDescription, copy_snapshot

logger = logging.getLogger(__name__)

_PREDECESSOR_SECONDS = 20.0  # ranks whose `clmle run` was killed save for 15 at most


def main(argv: Sequence[str] | None = None) -> int:
    """Train as the options say.

    Returns:
        0 when the training run reached its end and `RUN/report.json` was written; 1 when it failed
        or was stopped; 2 for a mistake in the configuration or the data.
    """
    write_any_name()
    options = parse_options(argv)
    rank = os.environ.get("RANK", "0")
    logging.basicConfig(
        level=logging.INFO if rank == "0" else logging.WARNING,
        format=f"%(asctime)s rank {rank} %(levelname)s %(message)s",
        datefmt="%H:%M:%S",
        force=True,
    )
    try:
        config, derived = resolved(options)
        if print_if_dry_run(options, config, derived):
            return 0
        for line in recipe_lines(config, derived):
            logger.info("%s", line)  # which rank 0 alone shows
        train(config, resume=options.resume)
    except Stopped as stopped:
        logger.warning("%s", stopped)
        return stopped.exit_code
    except Exception as error:  # noqa: BLE001 - every end of a rank names the rank
        code, message = _end(error)
        sys.stderr.write(f"rank {rank}: {message}\n")
        return code
    return 0


def _end(error: Exception) -> tuple[int, str]:
    """Exit code and message of an error; a bug's message is its traceback."""
    try:
        return exit_code_and_message(error)
    except Exception:  # noqa: BLE001 - raised again: a bug
        return FAILED, traceback.format_exc().rstrip()


def parse_options(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line of a rank."""
    parser = config_parser("deepspeed --module trainer.train", __doc__)
    add_resume_option(parser)
    # DeepSpeed's launcher appends it; the environment says the same.
    parser.add_argument("--local_rank", type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def train(config: RunConfig, *, resume: str = "auto") -> dict[str, Any]:
    """Train one run on all ranks, from the newest checkpoint or from the start.

    Args:
        config: the run.
        resume: "auto", "none", or a checkpoint's folder.

    Returns:
        The final evaluation, the same on every rank.
    """
    settle_rank()
    run = RunFolder(config.run_path)
    # Before the folder is claimed: a mistake leaves it as it is.
    manifest, network = _checked(config, resume)
    with StopFlag() as stop_requested, ExitStack() as stack:
        if World.from_environment().is_first:
            stack.enter_context(_claimed(config, run, resume))
            _warn_of_settings(config, manifest)
        world = start_distributed(config)
        watch = RankWatch(world, config.train.communication_timeout_seconds)
        stack.enter_context(watch.watching())
        stack.callback(torch.distributed.destroy_process_group)
        slow = emulation_warning(config.train.precision, world.device)
        if slow is not None and world.is_first:
            logger.warning("%s", slow)
        # One rank decides: on a shared file system another may not see the newest checkpoint yet.
        found = world.run_on_rank_zero(lambda: checkpoint.find_intact(resume, run))
        named = world.broadcast_text(str(found) if found is not None else None)
        if named is None and config.model.weights:
            _load_weights(network, Path(config.model.weights))
        parts = _build(config, world, manifest, network, stack, stop_requested)
        resumed = _restore(parts, Path(named)) if named is not None else None
        if world.is_first:
            first_step = resumed.step if resumed else 0
            checkpoint.remove_later(run, first_step)
            parts.metrics = MetricWriter(run, purge_step=first_step)
            stack.callback(parts.metrics.close)
        loop = Loop(parts, stop_requested=stop_requested, resumed=resumed, now_at=watch.at)
        evaluation = loop.run()
        if world.is_first:
            stalled = stall_warning(config, parts.feed.state, loop.train_seconds)
            if stalled is not None:
                logger.warning("%s", stalled)
            write_report(
                run,
                config,
                evaluation=evaluation,
                feed=parts.feed.state,
                train_seconds=loop.train_seconds,
                world_size=world.size,
            )
        world.barrier()
    return evaluation


@contextmanager
def _claimed(config: RunConfig, run: RunFolder, resume: str) -> Iterator[None]:
    """Inside the block this training alone writes to the folder."""
    busy = (
        f"another training run is using {run.path} (it holds {TRAINER}); wait for it, stop it, or "
        "set another run.folder"
    )
    with claimed_alone(
        run,
        TRAINER,
        lambda: claim_folder(run, config, fresh=resume == "none", holding=TRAINER),
        busy=busy,
        patience_seconds=_PREDECESSOR_SECONDS,
    ):
        run.report.unlink(missing_ok=True)  # it would say that this training has ended
        clear_leftovers(run.snapshots)
        yield


def _warn_of_settings(config: RunConfig, manifest: Manifest) -> None:
    for warning in (*config.warnings(), evaluation_warning(config, manifest)):
        if warning is not None:
            logger.warning("%s", warning)


def _restore(parts: Parts, path: Path) -> LoopState:
    state = checkpoint.load(
        parts.engine,
        path,
        parts.config,
        network=parts.description,
        data_checksum=parts.manifest.checksum,
    )
    former = RunFolder(path.parent.parent)
    if former.path.resolve() != parts.run.path.resolve():
        parts.world.run_on_rank_zero(lambda: _adopt(former, parts.run, state.feed))
    parts.feed.restore(state.feed, parts.run.tables)
    parts.objective.use_tables(parts.feed.tables)
    parts.objective.restore(checkpoint.load_statistics(path, parts.world))
    logger.info("resuming from %s", path)
    return state


def _adopt(former: RunFolder, run: RunFolder, feed: FeedState) -> None:
    """Take over from another run's folder the active tables, and the request for the next ones."""
    if feed.version is not None:
        store.publish(run.tables, feed.version, store.load(former.tables, feed.version))
    for version in feed.requested:
        copy_snapshot(former, run, int(version))


def _checked(config: RunConfig, resume: str) -> tuple[Manifest, Network]:
    """The shards and the fresh network; the first rank checks what the run starts from."""
    world = World.from_environment()
    manifest = load_manifest(config)
    evaluated_split(config, manifest)
    found = None
    if world.is_first:
        found = check_start(config, resume, manifest=manifest, num_ranks=world.size)
    network = _network(config, manifest)
    if world.is_first and found is None and config.model.weights:
        check_initial_weights(network.backbone, Path(config.model.weights))
    return manifest, network


def _network(config: RunConfig, manifest: Manifest) -> Network:
    """The network with fresh weights, the same on every rank."""
    torch.manual_seed(config.run.seed)
    network = _description(config, manifest).build()
    if config.loss.needs_logit_slopes:
        network.give_slopes()
    return network


def _description(config: RunConfig, manifest: Manifest) -> NetworkDescription:
    return NetworkDescription.of(config, classes_of_tasks(config, manifest))


def _load_weights(network: Network, path: Path) -> None:
    others = load_initial_weights(network, path)
    logger.info("weights of %s loaded; at random: %s", path, ", ".join(others) or "nothing")


def _build(
    config: RunConfig,
    world: World,
    manifest: Manifest,
    network: Network,
    stack: ExitStack,
    stop_requested: StopFlag,
) -> Parts:
    """Put the loop's parts together; what holds threads or files is closed by the stack."""
    run = RunFolder(config.run_path)
    tasks = resolve_tasks(config, manifest)
    index = SampleIndex(manifest, "train")
    stack.callback(index.close)
    loader = BatchLoader(index, config.data, config.model)
    stack.callback(loader.close)
    evaluator = None
    if evaluated_split(config, manifest) is not None:
        evaluator = RankEvaluator(
            run,
            world,
            manifest,
            tasks,
            config.evaluation,
            reader_threads=config.data.reader_threads,
        )
    return Parts(
        config=config,
        world=world,
        run=run,
        manifest=manifest,
        tasks=tasks,
        description=_description(config, manifest),
        engine=Engine(network, config, world),
        feed=TableFeed(
            run.tables,
            config.refresh,
            world,
            check=lambda tables: check_tables(
                tables,
                embedding_dim=config.model.embedding_dim,
                num_classes=classes_of_tasks(config, manifest),
            ),
            stop_requested=stop_requested,
            given_up=lambda: is_service_given_up(run),
        ),
        index=index,
        loader=loader,
        objective=_objective(config, tasks, manifest, index, world),
        evaluator=evaluator,
        metrics=None,
    )


def _objective(
    config: RunConfig,
    tasks: Sequence[TaskConfig],
    manifest: Manifest,
    index: SampleIndex,
    world: World,
) -> Objective:
    targets = {
        task.name: TaskTarget(
            labels=index.labels(task.label),
            class_counts=manifest.class_counts("train", task.label),
            weight=task.weight,
        )
        for task in tasks
    }
    return Objective(
        config.loss, targets, index.ids, num_steps=config.classifier_start, device=world.device
    )


if __name__ == "__main__":
    end_process(main())
