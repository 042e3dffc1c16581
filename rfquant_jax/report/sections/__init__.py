"""The sections of the report page, one file each.

A section is a function from the files of a run to markup. It raises `Unavailable` if its files are
missing or unreadable; the page then shows the reason in its place.
"""
