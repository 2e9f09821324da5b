"""Measurements that are kept beside the code: run by hand, not by the tests."""
