"""The integer program's solver."""

import ctypes

import numpy as np

from rfquant_jax.search import ilp
from tests.search.landscapes import bitops_budgets, problem


def test_what_the_solver_prints_stays_off_the_terminal(capfd, monkeypatch):
    libc, real = ctypes.CDLL(None), ilp.milp

    def chatty(*args, **options):
        libc.printf(b"HighsMipSolverData::transformNewIntegerFeasibleSolution\n")
        return real(*args, **options)

    monkeypatch.setattr(ilp, "milp", chatty)
    (budget,) = bitops_budgets(2, 50.0)
    found = ilp.least_load(problem([1, 1], 50.0).search_space, budget.limits)
    libc.fflush(None)
    assert np.array_equal(found, np.full((2, 2), 2))
    assert capfd.readouterr().out == ""
