"""Which finalist wins a budget."""

from types import SimpleNamespace

import numpy as np
import pytest

from configs import default
from rfquant_jax.evaluate.evaluator import Accuracy
from rfquant_jax.search.budget import Budget, CostKind, Limit
from rfquant_jax.tasks.search import _winner


def winner(right, *, images=1000, uniform_cost=95, margin=1.0, losses=(1.0, 2.0)):
    """Of one finalist of the search and the uniform one; the budget is 100."""
    config = default.get_config()
    config.search.confirm_margin = margin
    finalists = {"found": np.asarray([[100, 0]]), "uniform w4a4": np.asarray([[uniform_cost, 0]])}
    kind = CostKind("G", "GBitOPs", lambda configuration: float(configuration[0, 0]))
    budget = Budget("b", (Limit(kind, 100.0),))
    accuracies = {
        name: Accuracy(count, count, loss, images)
        for name, count, loss in zip(finalists, right, losses, strict=True)
    }
    return _winner(SimpleNamespace(config=config), budget, finalists, accuracies)


def test_a_proposal_must_beat_a_uniform_one_of_its_cost_by_more_than_chance():
    """With 800 and 820 right of 1,000 the deviation is sqrt(160 + 147.6) = 17.5 images."""
    assert winner((817, 800)) == "uniform w4a4"  # sqrt(149.5 + 160) = 17.6
    assert winner((818, 800)) == "found"  # sqrt(148.9 + 160) = 17.57
    assert winner((818, 800), margin=2.0) == "uniform w4a4"
    assert winner((801, 800), margin=0.0) == "found"


def test_a_uniform_one_that_leaves_the_budget_unused_has_no_such_privilege():
    assert winner((801, 800), uniform_cost=89) == "found"
    assert winner((800, 801), uniform_cost=89) == "uniform w4a4"


@pytest.mark.parametrize("margin", [0.0, 1.0])
def test_of_equal_counts_the_smaller_loss_wins_only_without_a_margin(margin):
    expected = "uniform w4a4" if margin else "found"
    assert winner((800, 800), margin=margin) == expected
    assert winner((800, 800), margin=margin, losses=(float("nan"), 2.0)) == "uniform w4a4"
