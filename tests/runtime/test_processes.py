"""Joining the processes of a run, and what is said when one is lost."""

import io
import os
import socket

import jax
import pytest

from configs import default
from rfquant_jax.config import checks
from rfquant_jax.errors import ArgumentError, ConfigError
from rfquant_jax.runtime import devices, native_errors, processes
from tests.conftest import mesh_of

# What JAX 0.10 and 0.12 print, shortened.
LOST_WORKERS = b"""\
E1124 14:42:05.933351   15514 coordination_service.cc:1549] [268] Use error polling to propagate \
the following error to all tasks: UNAVAILABLE: The following tasks are unhealthy (stopped sending \
heartbeats):
1
12
The tasks have crashed. Check the task logs for an earlier error.
=== Source Location Trace: ===
external/xla+/xla/pjrt/distributed/coordination/coordination_service.cc:232

E1124 14:42:05.934029   15525 coordination_service_agent.cc:289] Polled an error from service.
F1124 14:42:05.934168   15525 client.h:80] Terminating process because the JAX distributed service \
detected fatal errors. absl::Status: UNAVAILABLE: The following tasks are unhealthy:
1
12
*** Check failure stack trace: ***
    @     0x7f1e7bc40634  absl::lts_20260107::log_internal::LogMessage::SendToLog()
"""
LOST_COORDINATOR = b"""\
W1124 14:42:15.047399   15606 preemption_sync_manager.cc:147] Failed to retrieve: Socket closed
E1124 14:42:15.047693   15606 coordination_service_agent.cc:289] Polled an error from service.
F1124 14:42:15.047700   15606 client.h:80] Terminating process because the JAX distributed service \
detected fatal errors. absl::Status: UNAVAILABLE: Failed to send RPC to coordination service.
:UNKNOWN:Error received from peer  {grpc_message:"Socket closed", grpc_status:14}
*** Check failure stack trace: ***
"""
PEERS = b"\x1epeers " + " ".join(f"host{i}" for i in range(13)).encode() + b"\n"


def said(printed):
    terminal = io.BytesIO()
    native_errors.pass_on(io.BytesIO(printed), terminal, "30")
    return terminal.getvalue().decode()


@pytest.mark.parametrize(
    ("printed", "who"),
    [
        (LOST_WORKERS, "lost processes 1 (on host1), 12 (on host12) of 13"),
        (LOST_COORDINATOR, "lost process 0 (on host0) of 13"),
    ],
)
def test_a_lost_process_is_named_in_one_line(printed, who):
    text = said(PEERS + printed)
    assert text.startswith(f"error: {who}: it exited, or did not respond for 30 s; checkpoints")
    assert text.count("\n") == 1


def test_processes_that_never_came_together_are_not_called_lost():
    assert "did not connect in time" in said(LOST_COORDINATOR)


def test_a_coordinator_that_cannot_have_its_port_is_told_in_one_line():
    text = b"E1124 14:42:15.0 156 add_port.cc:83] Failed to add port to server\n*** SIGSEGV\n"
    assert said(text) == "error: the port of the coordinator is in use, by another run?\n"


def test_a_port_in_use_is_refused_before_anything_starts():
    with socket.socket() as listener:
        listener.bind(("", 0))
        listener.listen()
        given = default.get_config().distributed
        given.coordinator = f"127.0.0.1:{listener.getsockname()[1]}"
        given.processes = 2
        with pytest.raises(ArgumentError, match=r"`coordinator` = .*its port cannot be used here"):
            processes.start(given)


def test_all_else_is_passed_on():
    other = b"W1124 14:42:15.047399   15606 cuda_executor.cc:12] something about a GPU\nmore\n"
    assert said(PEERS + other + b"plain text\n").encode() == other + b"plain text\n"


def test_the_filter_lets_through_what_libraries_write(capfd):
    before = os.dup(2)
    watched = native_errors.Filter(30)
    try:
        os.write(2, b"from a library\n")
    finally:
        watched.stop()
    os.write(2, b"afterwards\n")
    os.close(before)
    assert capfd.readouterr().err == "from a library\nafterwards\n"


@pytest.mark.parametrize(
    ("environment", "count", "alone"),
    [
        ({}, None, False),
        (
            {"SLURM_PROCID": "3", "SLURM_NTASKS": "8", "SLURM_STEP_TASKS_PER_NODE": "4(x2)"},
            8,
            False,
        ),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "1(x2)"}, 2, True),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "1", "SLURM_STEP_TASKS_PER_NODE": "1"}, 1, True),
        ({"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "4"}, 4, False),
        (
            {"SLURM_PROCID": "3", "SLURM_NTASKS": "8", "CUDA_VISIBLE_DEVICES": "0"},
            8,
            True,
        ),
    ],
)
def test_what_a_batch_system_says_of_its_processes(monkeypatch, environment, count, alone):
    for name in ("CUDA_VISIBLE_DEVICES", *(n for n in os.environ if n.startswith("SLURM_"))):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert processes._detected_count() == count
    assert processes._has_host_to_itself() is alone


def test_a_job_of_one_process_is_joined_with_none(monkeypatch):
    def never(*_, **options):
        raise AssertionError

    monkeypatch.setattr(processes, "_join", never)
    for name, value in {"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}.items():
        monkeypatch.setenv(name, value)
    given = default.get_config().distributed
    processes.start(given)
    given.coordinator, given.processes = "host:1234", 1
    processes.start(given)


def test_where_there_is_no_cluster_a_process_is_alone(monkeypatch):
    for name in [n for n in os.environ if n.startswith(("SLURM_", "OMPI_"))]:
        monkeypatch.delenv(name)
    before = os.fstat(2)
    monkeypatch.setattr(jax._src.xla_bridge, "backends_are_initialized", lambda: False)
    processes.start(default.get_config().distributed)
    assert not jax.distributed.is_initialized()
    assert os.fstat(2) == before


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("coordinator", "nowhere", "must be HOST:PORT"),
        ("coordinator", "host:99999", "must be HOST:PORT"),
        ("coordinator", ":80", "must be HOST:PORT"),
        ("processes", 0, "must be the number of processes"),
        ("process", 2, "must be below distributed.processes 2"),
        ("process", -1, "must not be negative"),
        ("heartbeat_timeout_seconds", 0, "must be at least 3"),
    ],
)
def test_mistakes_about_processes_are_named(field, value, said):
    config = default.get_config()
    config.distributed.coordinator, config.distributed.processes = "host:80", 2
    config.distributed[field] = value
    with pytest.raises(ConfigError) as error:
        checks.validate(config)
    assert error.value.field == f"distributed.{field}"
    assert said in str(error.value)


def test_processes_without_a_coordinator_are_refused():
    config = default.get_config()
    config.distributed.processes = 2
    with pytest.raises(ConfigError, match=r"needs distributed\.coordinator"):
        checks.validate(config)


def test_one_process_grants_its_own_wishes_at_once():
    vote = devices.Vote(mesh_of(4))
    assert vote(True, False) == (True, False)
    assert devices.any_process(True) is True
    assert devices.any_process(False) is False
