"""What a run writes down, and what it forgets when it goes on from an earlier step."""

import json
import os
import struct
import sys
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.layout_pb2 import Layout

from rfquant_jax.report.log import LOG_FILE, METRICS_FILE, RunLog


def lines(folder):
    return [json.loads(text) for text in (folder / METRICS_FILE).read_text().splitlines()]


def test_metrics_and_events_are_json_lines(tmp_path):
    log = RunLog(tmp_path)
    log.metrics("train", 3, {"loss": 0.5})
    log.event("train", 4, {"event": "scheduler", "changes": []})
    log.close()
    assert lines(tmp_path) == [
        {"task": "train", "step": 3, "loss": 0.5},
        {"task": "train", "step": 4, "event": "scheduler", "changes": []},
    ]
    assert list((tmp_path / "tensorboard").glob("events.out.tfevents.*"))


def test_without_tensorboardx_metrics_are_json_lines_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    log = RunLog(tmp_path)
    for step in (1, 2):
        log.metrics("train", step, {"loss": 0.5})
    log.close()
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]
    assert not (tmp_path / "tensorboard").exists()
    assert capsys.readouterr().out.count("pip install 'rfquant-jax[plots]'") == 1


def test_tensorboard_combines_curves_in_charts(tmp_path):
    log = RunLog(tmp_path)
    log.dashboard({"Losses": {"of passes": ["train/loss$", "train/random/loss$"]}, "Rest": {}})
    log.curves("train", 3, {"loss": 0.5})
    log.close()
    (file,) = (tmp_path / "tensorboard").iterdir()
    values = [value for event in events(file.read_bytes()) for value in event.summary.value]
    assert [value.tag for value in values] == ["custom_scalars__config__", "train/loss"]
    assert values[0].metadata.plugin_data.plugin_name == "custom_scalars"
    layout = Layout.FromString(values[0].tensor.string_val[0])
    assert [category.title for category in layout.category] == ["Losses", "Rest"]
    (chart,) = layout.category[0].chart
    assert chart.title == "of passes"
    assert list(chart.multiline.tag) == ["train/loss$", "train/random/loss$"]


def events(data):
    """The events of a TensorBoard file: length, checksum of the length, event, its checksum."""
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        yield Event.FromString(data[12 : 12 + length])
        data = data[16 + length :]


def test_rewinding_forgets_later_steps_of_its_task_and_torn_lines(tmp_path):
    log = RunLog(tmp_path)
    for task, step in (("pretrain", 9), ("train", 4), ("train", 5), ("train", 6)):
        log.event(task, step, {})
    with (tmp_path / METRICS_FILE).open("a") as file:
        file.write('{"task": "train", "st')
    log.rewind("train", 5)
    assert [(r["task"], r["step"]) for r in lines(tmp_path)] == [
        ("pretrain", 9),
        ("train", 4),
        ("train", 5),
    ]


def test_messages_go_to_the_terminal_and_the_log_file(tmp_path, capsys):
    log = RunLog(tmp_path)
    log.info("hello")
    assert "hello" in capsys.readouterr().out
    assert (tmp_path / LOG_FILE).read_text().endswith(" hello\n")


def test_progress_reports_count_rate_and_time_left(tmp_path):
    log = RunLog(tmp_path)
    with log.progress("train", 10, 4) as progress:
        progress.advance()
        progress.advance()
        progress.report("loss 1")
    with log.progress("search", None) as progress:
        for _ in range(3):
            progress.advance()
        progress.report("far", share=0.5)
        progress.report("near")
    first, second, third = (tmp_path / LOG_FILE).read_text().splitlines()
    assert "train 6/10: loss 1 (" in first
    assert first.endswith(" s left)")
    assert "search 3: far (" in second
    assert "about 0 s left" in second
    assert third.endswith("time left unknown)")


def test_without_a_workdir_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    log = RunLog(None)
    log.info("hello")
    log.metrics("train", 1, {"loss": 1.0})
    log.rewind("train", 0)
    log.close()
    assert list(tmp_path.iterdir()) == []


def test_what_a_terminal_obeys_is_written_out(tmp_path, capsys):
    RunLog(tmp_path).info("a\x1b[2J\n\tb")
    assert capsys.readouterr().out == "a\\x1b[2J\n\tb\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_full_disk_under_tensorboard_is_an_error_and_no_standstill(tmp_path, capfd):
    log = RunLog(tmp_path)
    log.metrics("train", 0, {"loss": 1.0})
    log._board._writer.close()
    log._board._writer._writer = Path("/dev/full").open("wb")  # noqa: SIM115
    for step in range(1, 30):
        with pytest.raises(OSError, match="No space left") as error:
            log.metrics("train", step, {"loss": 1.0})
        assert error.value.filename == str(tmp_path / "tensorboard")
    log.close()
    assert capfd.readouterr() == ("", "")
