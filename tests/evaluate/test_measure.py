"""Recalibration batches that are read again each time, or kept if they are small."""

import itertools

import numpy as np
import pytest

from rfquant_jax.evaluate.measure import RereadBatches


@pytest.mark.parametrize(("limit", "reads"), [(24, 1), (23, 3), (0, 3)])
def test_only_small_batches_are_kept(limit, reads):
    started = []

    def read():
        started.append(True)
        yield from (np.full(2, i, np.float32) for i in range(3))  # 8 bytes each

    batches = RereadBatches(read, limit)
    for _ in range(3):
        assert [batch[0] for batch in batches] == [0, 1, 2]
    assert len(started) == reads


def test_an_iteration_that_ends_early_keeps_nothing():
    batches = RereadBatches(lambda: [np.zeros(1), np.ones(1)])
    assert len(list(itertools.islice(batches, 1))) == 1
    assert [batch[0] for batch in batches] == [0, 1]
