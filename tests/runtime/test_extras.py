"""Packages that are optional."""

import sys

import pytest

from rfquant_jax.runtime import extras


@pytest.mark.parametrize(("package", "extra"), extras.EXTRAS.items())
def test_a_missing_package_is_said_with_the_extra_that_installs_it(package, extra, monkeypatch):
    assert extras.missing(package) is None
    monkeypatch.setitem(sys.modules, package, None)
    expected = f"{package} is not installed: pip install 'rfquant-jax[{extra}]'"
    assert extras.missing(package) == expected
