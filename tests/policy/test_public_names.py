"""What a package's `__all__` promises is there, and documented."""

import importlib

import pytest

PUBLIC = [
    (package, name)
    for package in ("clmle", "data_shards", "clustering", "trainer", "cluster_jobs")
    for name in importlib.import_module(package).__all__
]


@pytest.mark.parametrize(("package", "name"), PUBLIC)
def test_a_public_name_can_be_imported(package, name):
    value = getattr(importlib.import_module(package), name)
    assert name in dir(importlib.import_module(package))
    assert isinstance(value, dict) or value.__doc__, name


def test_an_unknown_name_is_an_attribute_error():
    for package in {package for package, _ in PUBLIC}:
        assert not hasattr(importlib.import_module(package), "no_such_name")
