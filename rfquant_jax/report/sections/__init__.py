"""The sections of the report, one file each: a function from a run's files to markup.

Each raises `Unavailable` if its data are missing; the page then shows the reason.
"""
