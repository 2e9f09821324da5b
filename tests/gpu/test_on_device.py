"""On a CUDA device: the same numbers as on the CPU, and a bf16 training under DeepSpeed."""

import numpy as np
import pytest
import torch

from clustering.table.knc import knc_predict
from tests.helpers.reference_clustering import unit_rows
from trainer.config.builder import build_config
from trainer.losses.clmle import candidate_cosines, clmle_loss
from trainer.models import build_network
from trainer.models.embed import embed_images

pytestmark = pytest.mark.gpu


@pytest.fixture
def iresnet():
    torch.manual_seed(0)
    return build_network(
        "iresnet18", channels=3, input_size=112, embedding_dim=64, num_classes={"identity": 10}
    ).eval()


def images(count, seed=0):
    shape = (count, 112, 112, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-3), (torch.bfloat16, 5e-2)])
def test_embeddings_equal_those_of_the_cpu(iresnet, dtype, tolerance):
    expected = embed_images(iresnet, images(8))["identity"].embedding
    network = iresnet.to("cuda", dtype)
    got = embed_images(network, images(8))["identity"].embedding
    assert got.is_cuda
    cosines = (got.cpu().float() * expected).sum(dim=1)
    assert cosines.min() > 1 - tolerance


def test_loss_and_gradient_equal_those_of_the_cpu():
    rng = np.random.default_rng(1)
    embeddings = torch.tensor(unit_rows(rng, 60, 32))
    centroids = torch.tensor(unit_rows(rng, 12, 32))
    cluster, class_of = torch.arange(60) % 12, torch.arange(12) // 2

    def loss_on(device):
        rows = embeddings.to(device).requires_grad_()
        own, cosine, which = candidate_cosines(
            rows, cluster.to(device), centroids.to(device), candidates="batch"
        )
        terms = clmle_loss(
            own,
            cosine,
            class_of.to(device)[which],
            scale=16.0,
            margin_between_rad=0.35,
            margin_within_rad=0.1,
            weight_within=0.1,
        )
        terms.loss.backward()
        return terms.loss.item(), rows.grad.cpu()

    (expected, gradient), (got, got_gradient) = loss_on("cpu"), loss_on("cuda")
    assert got == pytest.approx(expected, rel=1e-3)
    torch.testing.assert_close(got_gradient, gradient, rtol=1e-2, atol=1e-4)


def test_knc_of_device_embeddings_equals_the_cpus(iresnet):
    pictures = images(32, seed=2)
    on_cpu = embed_images(iresnet, pictures)["identity"].embedding.numpy()
    network = iresnet.to("cuda", torch.bfloat16)
    on_gpu = embed_images(network, pictures)["identity"].embedding.float().cpu().numpy()
    centroids, class_of = on_cpu[:20], np.arange(20) // 2

    def predict(queries):
        settings = {"num_classes": 10, "num_neighbours": 10}
        return knc_predict(
            queries, centroids, class_of, rules=("margin", "soft"), **settings
        ).classes

    expected = predict(on_cpu[:20])
    for rule, predicted in predict(on_gpu[:20]).items():
        # The queries that are centroids have a clear answer, whatever the rounding.
        assert (predicted == expected[rule]).mean() >= 0.95


@pytest.mark.parametrize("zero_stage", [0, 2])
def test_iresnet18_trains_in_bf16_under_deepspeed(zero_stage, monkeypatch):
    monkeypatch.setenv("DS_ACCELERATOR", "cuda")
    from trainer.runtime.engine import Engine, start_distributed
    from trainer.runtime.launcher import settle_rank
    from trainer.state.snapshot import NetworkDescription

    config = build_config(
        {
            "model": {
                "backbone": "iresnet18",
                "channels": 3,
                "input_size": 112,
                "embedding_dim": 64,
            },
            "sampler": {"micro_batches": 1, "micro_batch_size": 32, "images_per_cluster": 4},
            "train": {"precision": "bf16", "zero_stage": zero_stage},
        }
    )
    settle_rank()
    world = start_distributed(config)
    try:
        torch.manual_seed(0)
        network = NetworkDescription.of(config, {"identity": 8}).build()
        engine = Engine(network, config, world)
        engine.set_learning_rate(0.02)
        batch = torch.randn(32, 3, 112, 112, device="cuda")
        labels = torch.arange(32, device="cuda") // 4
        losses = []
        for _ in range(20):
            output = engine.forward(batch)["identity"]
            loss = torch.nn.functional.cross_entropy(output.logits, labels)
            engine.backward(loss)
            engine.micro_step()
            losses.append(loss.item())
        assert all(np.isfinite(losses))
        assert losses[-1] < 0.5 * losses[0]
    finally:
        torch.distributed.destroy_process_group()
