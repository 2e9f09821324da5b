from __future__ import annotations

import os

import pytest

from data_shards.errors import ConfigError
from trainer.runtime.launcher import rank_variables, settle_rank, without_launcher

OF_A_RANK = {
    "RANK": "1",
    "WORLD_SIZE": "2",
    "LOCAL_RANK": "1",
    "MASTER_ADDR": "10.0.0.1",
    "MASTER_PORT": "29500",
}
OF_MPI = {
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_LOCAL_RANK": "3",
    "PMIX_RANK": "3",
    "PMI_SIZE": "4",
}
OF_SLURM = {"SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "5", "SLURM_LOCALID": "1"}
OF_TORCHRUN = {
    **OF_A_RANK,
    "LOCAL_WORLD_SIZE": "2",
    "GROUP_RANK": "0",
    "ROLE_NAME": "default",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
}
OF_DEEPSPEED = {**OF_A_RANK, "LOCAL_SIZE": "2", "CROSS_RANK": "0", "CROSS_SIZE": "1"}


@pytest.mark.parametrize("around", [OF_MPI, OF_SLURM, OF_TORCHRUN, OF_DEEPSPEED])
def test_nothing_of_a_launcher_is_left(around: dict[str, str]) -> None:
    mine = {"PATH": "/bin", "OMP_NUM_THREADS": "2", "NCCL_DEBUG": "INFO", "RANKING": "mine"}
    assert without_launcher(mine | around) == mine


@pytest.mark.parametrize("around", [{}, OF_MPI, OF_SLURM])
def test_what_the_launcher_of_the_ranks_says_counts(around: dict[str, str]) -> None:
    assert rank_variables(OF_DEEPSPEED | around) == OF_A_RANK


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"MASTER_ADDR": "elsewhere", "MASTER_PORT": "1", "LOCAL_RANK": "3"},
        {"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "0"},
        # A batch script: several tasks may be started in it, but this is no one of them.
        {"SLURM_NTASKS": "8", "SLURM_PROCID": "0"},
        {**OF_MPI, "RANK": "0", "WORLD_SIZE": "1"},
    ],
)
def test_a_process_without_a_launcher_is_a_single_rank(environment: dict[str, str]) -> None:
    found = rank_variables(environment)
    assert int(found.pop("MASTER_PORT")) > 1
    assert found == {
        "RANK": "0",
        "WORLD_SIZE": "1",
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
    }


@pytest.mark.parametrize(
    ("environment", "name"),
    [
        (OF_MPI, "OMPI_COMM_WORLD_SIZE=4"),
        (OF_SLURM, "SLURM_STEP_NUM_TASKS=8"),
        ({"PMI_RANK": "0", "PMI_SIZE": "2"}, "PMI_SIZE=2"),
    ],
)
def test_processes_that_do_not_know_their_ranks_are_refused(
    environment: dict[str, str], name: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        rank_variables(environment)
    assert name in str(caught.value)
    assert "start the ranks with `deepspeed`, or set RANK, WORLD_SIZE" in str(caught.value)


@pytest.mark.parametrize("missing", list(OF_A_RANK))
def test_a_rank_that_knows_only_a_part_is_refused(missing: str) -> None:
    """It would wait for the others, or they for it, until the time is out."""
    given = {name: value for name, value in OF_A_RANK.items() if name != missing}
    with pytest.raises(ConfigError, match=f"not {missing}, so the ranks cannot find each other"):
        rank_variables(given)


@pytest.mark.parametrize("name", ["RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT"])
def test_what_is_no_number_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be a number, got 'one'"):
        rank_variables(OF_A_RANK | {name: "one"})


def test_deepspeed_does_not_see_the_local_rank_of_mpi(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (OF_A_RANK | OF_MPI).items():
        monkeypatch.setenv(name, value)
    settle_rank()
    assert "OMPI_COMM_WORLD_LOCAL_RANK" not in os.environ
    assert os.environ["LOCAL_RANK"] == "1"
