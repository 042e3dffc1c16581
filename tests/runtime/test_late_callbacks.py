"""The hook that suppresses what tensorstore prints after a failure."""

import sys
from collections import namedtuple

from rfquant_jax.runtime.late_callbacks import restore_late_callbacks, silence_late_callbacks

Unraisable = namedtuple("Unraisable", "exc_value")


def check_suppression(seen):
    """The installed hook passes everything but our tracebacks on to the one that fills `seen`."""
    sys.unraisablehook(Unraisable(RuntimeError("Event loop is closed")))
    other = Unraisable(RuntimeError("something else"))
    sys.unraisablehook(other)
    assert seen == [other]


def test_only_tracebacks_of_a_closed_loop_are_suppressed_until_restored(monkeypatch):
    seen = []
    monkeypatch.setattr(sys, "unraisablehook", seen.append)
    before = sys.unraisablehook
    silence_late_callbacks()
    silence_late_callbacks()  # installed once
    check_suppression(seen)
    restore_late_callbacks()
    assert sys.unraisablehook is before
    restore_late_callbacks()  # nothing to undo
    assert sys.unraisablehook is before


def test_a_hook_installed_in_the_meantime_stays_and_is_called_after_ours(monkeypatch):
    seen = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: None)
    silence_late_callbacks()
    monkeypatch.setattr(sys, "unraisablehook", seen.append)
    later = sys.unraisablehook
    restore_late_callbacks()
    assert sys.unraisablehook is later

    silence_late_callbacks()  # ours, whatever an earlier failure left installed below it
    check_suppression(seen)
    restore_late_callbacks()
    assert sys.unraisablehook is later
