"""What the launcher of the ranks tells each of them by environment variables; no torch.

Other launchers set variables too: a whole command may have been started by MPI, Slurm or torchrun.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

from data_shards.errors import ConfigError

_OWN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_OTHERS = (
    *("LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE"),  # torchrun
    *("ROLE_NAME", "ROLE_RANK", "ROLE_WORLD_SIZE"),
    *("LOCAL_SIZE", "CROSS_RANK", "CROSS_SIZE"),  # DeepSpeed
    *("MPI_LOCALRANKID", "MPI_LOCALNRANKS"),  # Intel MPI, MPICH
)
_PREFIXES = ("TORCHELASTIC_", "OMPI_", "PMI_", "PMIX_", "PRTE_", "MV2_COMM_", "HYDRA_", "SLURM_")
_NUM_PROCESSES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
_LOCAL_RANK_OF_MPI = "OMPI_COMM_WORLD_LOCAL_RANK"


def without_launcher(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment without what a launcher says to the processes that it starts itself."""
    return {
        name: value
        for name, value in environment.items()
        if name not in (*_OWN, *_OTHERS) and not name.startswith(_PREFIXES)
    }


def settle_rank() -> None:
    """Put the five variables of this rank into its environment, where no launcher has done so.

    Raises:
        ConfigError: see `rank_variables`.
    """
    os.environ.update(rank_variables(os.environ))
    # DeepSpeed fails if MPI, around the launcher of the ranks, has another number than that.
    os.environ.pop(_LOCAL_RANK_OF_MPI, None)


def rank_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT of this rank.

    Args:
        environment: of this process.

    Returns:
        What its launcher set; without a launcher, what a single rank needs.

    Raises:
        ConfigError: some are missing or no numbers, or this is one of several processes that were
            not told their rank.
    """
    if not {"RANK", "WORLD_SIZE"} & set(environment):
        _check_alone(environment)
        return _single_rank()
    given = {name: environment[name] for name in _OWN if name in environment}
    if given.get("WORLD_SIZE") == "1":
        given = _single_rank() | given
    if missing := [name for name in _OWN if name not in given]:
        raise ConfigError(
            f"the environment has {', '.join(given)}, but not {', '.join(missing)}, so the ranks "
            "cannot find each other; start them with `deepspeed`, or set all of them"
        )
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT"):
        if not given[name].isdecimal():
            raise ConfigError(
                f"{name} must be a number, got {given[name]!r}; start the ranks with `deepspeed`, "
                "or correct it"
            )
    return given


def _check_alone(environment: Mapping[str, str]) -> None:
    """Refuse several processes that do not know of each other: each would train alone."""
    for name in _NUM_PROCESSES:
        if environment.get(name, "1") != "1":
            raise ConfigError(
                f"this is one of several processes ({name}={environment[name]}) that were not told "
                f"their rank; start the ranks with `deepspeed`, or set {', '.join(_OWN)} for each "
                "(docs/running.md, Several machines); for one rank alone set WORLD_SIZE=1"
            )


def _single_rank() -> dict[str, str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    return dict(zip(_OWN, ("0", "1", "0", "127.0.0.1", port), strict=True))
