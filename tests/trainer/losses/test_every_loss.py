"""Every loss that can be chosen trains the network on real batches, and nothing becomes NaN."""

from __future__ import annotations

import pytest
import torch

from data_shards.shards.index import SampleIndex
from data_shards.shards.manifest import Manifest
from tests.helpers.tiny_tables import table_of
from tests.helpers.training import tiny_config
from trainer.config.run_config import RunConfig
from trainer.config.tasks import resolve_tasks
from trainer.losses.objective import Objective, TaskTarget
from trainer.losses.registry import LOSSES
from trainer.losses.softmax import JointSettings
from trainer.models.network import Network
from trainer.runtime.world import World
from trainer.sampling.batch_loader import BatchLoader
from trainer.sampling.batch_plan import BatchPlan
from trainer.state.snapshot import NetworkDescription

STEPS = 16
CPU = torch.device("cpu")


def trained(config: RunConfig, manifest: Manifest, index: SampleIndex) -> tuple[Network, list]:
    """The network after so many steps of plain SGD, and the loss of each micro-batch."""
    tasks = resolve_tasks(config, manifest)
    torch.manual_seed(0)
    network = NetworkDescription.of(
        config, {task.name: manifest.num_classes(task.label) for task in tasks}
    ).build()
    tables = {task.name: table_of(index, task.label) for task in tasks}
    objective = Objective(
        config.loss,
        {
            task.name: TaskTarget(
                labels=index.labels(task.label),
                class_counts=manifest.class_counts("train", task.label),
            )
            for task in tasks
        },
        index.ids,
        num_steps=STEPS,
        device=CPU,
    )
    objective.use_tables(tables)
    loader = BatchLoader(index, config.data, config.model)
    plan = BatchPlan(config, tasks, index, World(0, 1, 0, CPU), tables)
    loader.start(plan, first_step=0, end_step=STEPS)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for step in range(STEPS):
        optimizer.zero_grad()
        for _ in range(config.sampler.micro_batches):
            batch = loader.next()
            total = objective(network(batch.images), batch.samples.sample_ids, step).loss
            total.backward()
            losses.append(float(total.detach()))
        gradients = {name: p.grad for name, p in network.named_parameters()}
        assert all(g is not None and g.isfinite().all() for g in gradients.values()), gradients
        optimizer.step()
    loader.close()
    return network, losses


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_falls_and_all_weights_learn(tmp_path, tiny_data, train_index, name) -> None:
    anneals = "margin_anneal" in LOSSES[name].settings.__dataclass_fields__
    settings = {"loss__name": name, "data__shift": 0} | (
        {"loss__margin_anneal": 0.0} if anneals else {}
    )
    config = tiny_config(tmp_path, tiny_data.folder, **settings)
    network, losses = trained(config, tiny_data, train_index)
    assert sum(losses[-8:]) < sum(losses[:8])
    assert network.has_classifier == config.loss.has_classifier


@pytest.mark.parametrize(
    "name", [n for n, spec in LOSSES.items() if issubclass(spec.settings, JointSettings)]
)
def test_a_loss_of_embeddings_can_have_a_joint_softmax(
    tmp_path, tiny_data, train_index, name
) -> None:
    config = tiny_config(tmp_path, tiny_data.folder, loss__name=name, loss__weight_softmax=0.5)
    network, losses = trained(config, tiny_data, train_index)
    assert sum(losses[-8:]) < sum(losses[:8])
    assert network.has_classifier
