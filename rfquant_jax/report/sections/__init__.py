"""The sections of the report, one file each: a function from a run's files to markup.

Each raises `Unavailable` where what it shows is missing; the page then says why.
"""
