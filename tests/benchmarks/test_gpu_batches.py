"""The largest batch by memory, on lines worked out by hand."""

from benchmarks.gpu_batches import collected, largest, line


def result(batch, peak, step="scan"):
    asked = {"network": "resnet18", "size": 224, "batch": batch}
    return {"asked": asked, "steps": [{"step": step, "peak_bytes": peak}]}


def test_peaks_are_collected_by_network_and_step():
    several = [result(256, 700), result(128, 400), result(64, 1, "plain"), result(128, 2, "plain")]
    found = dict(collected(several))
    assert found["resnet18 224", "scan"] == [(128, 400), (256, 700)]
    assert found["resnet18 224", "plain"] == [(64, 1), (128, 2)]


def test_the_line_and_the_batch_that_fits():
    assert line([(128, 640)]) == (0, 5.0)
    fixed, each = line([(128, 400), (200, 0), (256, 720)])
    assert (fixed, each) == (80.0, 2.5)
    assert largest(1000.0, fixed, each, 1) == 368  # 80 + 2.5 * 368 = 1000
    assert largest(999.0, fixed, each, 1) == 367
    assert largest(1000.0, fixed, each, 32) == 352
    assert largest(79.0, fixed, each, 1) == 0
