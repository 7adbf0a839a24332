"""Shared by all tests: `pytester`, for the tests of the pytest plugin."""

pytest_plugins = ["pytester"]
