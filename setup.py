"""The one thing that pyproject.toml cannot say: `configs/` is installed as `clmle/configs/`."""

from setuptools import find_packages, setup

PACKAGES = ("clmle", "data_shards", "clustering", "trainer", "cluster_jobs")

setup(
    packages=[
        *find_packages(include=[name for p in PACKAGES for name in (p, f"{p}.*")]),
        "clmle.configs",
    ],
    package_dir={"clmle.configs": "configs"},
    package_data={"clmle.configs": ["*.yaml"]},
)
