from __future__ import annotations

import numpy as np
import pytest

from clustering.config import ClusterConfig
from clustering.errors import ClusterError
from clustering.execution.plan import clusters_per_class, make_plan


@pytest.mark.parametrize("limit", [0, 1, 3])
@pytest.mark.parametrize("target_size", [1, 7, 200])
def test_number_of_clusters(target_size: int, limit: int) -> None:
    sizes = np.arange(1, 1500, 7)
    config = ClusterConfig(target_size=target_size, max_per_class=limit)
    expected = [min(max(1, round(n / target_size)), n, limit or n) for n in sizes.tolist()]
    counts = clusters_per_class(sizes, config)
    assert counts.dtype == np.int64
    assert counts.tolist() == expected


def test_an_empty_class_is_named() -> None:
    with pytest.raises(ClusterError, match="class 1 has no sample, nor have 1 others"):
        clusters_per_class(np.array([3, 0, 2, 0]), ClusterConfig())


@pytest.mark.parametrize("num_workers", [1, 2, 8, 1000])
@pytest.mark.parametrize("num_classes", [1, 2, 50])
def test_every_class_is_in_one_bundle(num_classes: int, num_workers: int) -> None:
    sizes = np.random.default_rng(num_classes).integers(1, 5000, size=num_classes)
    plan = make_plan(sizes, ClusterConfig(), num_workers=num_workers, dim=64)
    together = np.concatenate([bundle.classes for bundle in plan.bundles])
    assert sorted(together.tolist()) == list(range(num_classes))
    for bundle in plan.bundles:
        assert bundle.classes.tolist() == sorted(bundle.classes.tolist())
        assert bundle.num_samples == sizes[bundle.classes].sum()


def test_the_heaviest_bundle_comes_first_and_the_load_is_even() -> None:
    sizes = np.random.default_rng(0).integers(1, 3000, size=500)
    plan = make_plan(sizes, ClusterConfig(), num_workers=4, dim=64)
    costs = [bundle.cost for bundle in plan.bundles]
    assert costs == sorted(costs, reverse=True)
    assert max(costs) < 1.01 * min(costs)


def test_rows_are_even_too_where_some_classes_have_one_cluster() -> None:
    """A row costs what a few hundred comparisons do, also one that is compared with nothing."""
    large = np.random.default_rng(0).integers(70_000, 100_001, size=33)
    sizes = np.concatenate([large, np.full(50_000, 100)])
    plan = make_plan(sizes, ClusterConfig(), num_workers=8, dim=512)
    num_rows = np.array([bundle.num_samples for bundle in plan.bundles])
    assert num_rows.max() < 6 * np.median(num_rows)
    assert max(plan.bundle_bytes) <= 2**30 + 100 * 512 * 4
    assert plan.balance < 1.05


@pytest.mark.parametrize("class_size", [100, 250, 290])
def test_a_bundle_has_a_gibibyte_of_rows_at_most(class_size: int) -> None:
    """Even if its cost is small; but for less than a class. No class is lost by it."""
    sizes = np.full(30_000, class_size)
    plan = make_plan(sizes, ClusterConfig(), num_workers=1, dim=512)
    assert max(plan.bundle_bytes) < 2**30 + class_size * 512 * 4
    together = np.concatenate([bundle.classes for bundle in plan.bundles])
    np.testing.assert_array_equal(np.sort(together), np.arange(30_000))
    for bundle in plan.bundles:
        assert (np.diff(bundle.classes) > 0).all()


def test_a_wave_has_a_bundle_for_each_worker() -> None:
    """Also where half of the cost, and few of the rows, are those of large classes."""
    sizes = np.array([*[2000] * 60, *[100] * 20_000])
    plan = make_plan(
        sizes, CONFIG, num_workers=4, dim=64, num_nodes=2, object_store_bytes=500 * MIB
    )
    most = plan.transport.wave_bytes / 4 + 2000 * 64 * 4
    assert plan.transport.route == "object_store"
    assert max(plan.bundle_bytes) < most
    assert min(map(len, plan.waves[:-1])) >= 4


def test_cost_of_a_mean_and_of_kmeans() -> None:
    """Comparisons, and as much for each row as 250 of them."""
    config = ClusterConfig(target_size=100, iterations=10)
    plan = make_plan(np.array([120, 300]), config, num_workers=1, dim=64)
    assert plan.regimes == ("mean", "fits")
    assert [bundle.cost for bundle in plan.bundles] == [300 * (3 * 10 + 250), 120 * 250]


def test_much_work_makes_more_bundles() -> None:
    """So that a bundle ends within its timeout, and a lost one costs little."""
    plan = make_plan(np.full(100, 100_000), ClusterConfig(), num_workers=1, dim=64)
    assert len(plan.bundles) > 4
    assert max(bundle.cost for bundle in plan.bundles) < 4e9


def test_a_class_beyond_the_memory_of_a_worker_is_partitioned() -> None:
    sizes = np.array([300_000, 200_000, 9000, 10])
    config = ClusterConfig(memory_mib_per_worker=64, max_per_class=1)
    plan = make_plan(sizes, config, num_workers=1, dim=64)
    assert plan.regimes == ("partitioned", "mean", "mean", "mean")
    assert plan.partitioned == (0,)
    together = np.concatenate([bundle.classes for bundle in plan.bundles])
    assert sorted(together.tolist()) == [1, 2, 3]


@pytest.mark.parametrize(("num_workers", "partitioned"), [(1, ()), (2, (1,)), (8, (1, 0))])
def test_a_class_that_others_would_wait_for_is_partitioned(
    num_workers: int, partitioned: tuple[int, ...]
) -> None:
    sizes = np.array([40_000, 100_000, *[9000] * 60])
    plan = make_plan(sizes, ClusterConfig(), num_workers=num_workers, dim=128)
    assert plan.partitioned == partitioned


def test_only_large_classes() -> None:
    plan = make_plan(np.array([500_000]), ClusterConfig(), num_workers=2, dim=512)
    assert (plan.partitioned, plan.bundles) == ((0,), ())


SIZES = np.array([120, 300, 5, 400_000])
CONFIG = ClusterConfig(target_size=100)
MIB = 2**20


def _row(text: str, name: str) -> list[str]:
    """The words of a report's line that begins with this name."""
    (line,) = (line for line in text.splitlines() if line.startswith(f"{name} "))
    return line[len(name) :].split()


def test_summary_has_the_numbers() -> None:
    text = make_plan(SIZES[:3], CONFIG, num_workers=1, dim=64).summary()
    for number in ("425 samples", "3 classes", "1 fits", "2 mean", "5 clusters", "3 bundles"):
        assert number in text
    assert "shared_files" in text


def test_report_has_a_line_for_each_regime() -> None:
    """Classes, samples, clusters and share of the work; then what is moved."""
    text = make_plan(SIZES, CONFIG, num_workers=2, dim=64, object_store_bytes=100 * MIB).describe()
    assert "400,425 samples of 4 classes, 64 dimensions" in text
    assert _row(text, "regime") == ["classes", "samples", "clusters", "work"]
    assert _row(text, "mean") == ["2", "125", "2", "0.0%"]
    assert _row(text, "fits") == ["1", "300", "3", "0.0%"]
    assert _row(text, "partitioned") == ["1", "400,000", "4,000", "100.0%"]
    assert {"2;", "1.02"} <= set(_row(text, "workers"))
    assert " ".join(_row(text, "bundles")).startswith("3, the largest of 75.0 KiB")
    assert _row(text, "rows by")[0] == "shared_files:"
    assert _row(text, "moved")[:2] + _row(text, "moved")[3:5] == ["926.2", "MiB", "60.0", "MiB"]


def test_report_of_several_machines() -> None:
    sizes = np.full(2000, 100)
    text = make_plan(
        sizes, CONFIG, num_workers=2, dim=64, num_nodes=2, object_store_bytes=100 * MIB
    ).describe()
    assert _row(text, "rows by")[:3] == ["object_store:", "2", "machines:"]
    assert "48.8 MiB read, 48.8 MiB through the object store" in text
    assert _row(text, "waves") == ["3", "of", "at", "most", "18.3", "MiB"]


@pytest.mark.parametrize("transport", ["auto", "object_store"])
def test_report_without_ray_holds_what_the_workers_may(transport: str) -> None:
    config = ClusterConfig(memory_mib_per_worker=1000, transport=transport)
    sizes = np.array([300, 400_000])
    text = make_plan(sizes, config, num_workers=4, dim=64, object_store_bytes=None).describe()
    assert "Ray was not asked" in text
    assert "97.7 MiB read, 97.7 MiB through the object store" in text


def test_balance_counts_what_all_share() -> None:
    config = ClusterConfig(target_size=10, max_per_class=1)
    alone = make_plan(np.array([90, 10]), config, num_workers=2, dim=4)
    assert alone.balance == pytest.approx(1.8)
    assert make_plan(np.array([50, 50]), config, num_workers=2, dim=4).balance == 1.0


def test_partitioned_classes_come_costliest_first() -> None:
    plan = make_plan(np.array([300_000, 500_000]), CONFIG, num_workers=2, dim=512)
    assert plan.partitioned == (1, 0)


UNKNOWN_STORE = {"dim": 128, "object_store_bytes": None}


@pytest.mark.parametrize(
    ("sizes", "num_workers", "balance"),
    [
        ([200_000], 24, 1.39),  # the last partition: a whole chunk of 8,192 rows and one of 3,392
        ([200_000] * 3, 24, 1.12),  # next to each other; one after the other it would be 1.39
        ([200_000] * 24, 24, 1.0),
    ],
)
def test_balance_counts_whole_chunks(sizes: list[int], num_workers: int, balance: float) -> None:
    plan = make_plan(np.array(sizes), ClusterConfig(), num_workers=num_workers, **UNKNOWN_STORE)
    assert len(plan.partitioned) == len(sizes)
    assert plan.balance == pytest.approx(balance, abs=0.005)


def test_no_worker_is_kept_without_need() -> None:
    """16 chunks over 15 workers take as long as over 8."""
    plan = make_plan(np.array([16 * 8192]), ClusterConfig(), num_workers=15, **UNKNOWN_STORE)
    assert plan.num_partitions == {0: 8}


@pytest.mark.parametrize(("memory_mib", "least"), [(1000, 8), (13, 9), (3, 24)])
def test_partitions_are_held_where_they_can_be(memory_mib: int, least: int) -> None:
    """Of 25 chunks of 4 MiB each; without a bound 8 workers a class are best."""
    config = ClusterConfig(memory_mib_per_worker=memory_mib)
    plan = make_plan(np.full(3, 200_000), config, num_workers=24, **UNKNOWN_STORE)
    numbers = set(plan.num_partitions.values())
    assert min(numbers) >= least
    assert memory_mib == 13 or numbers == {least}
