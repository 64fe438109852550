"""A little of what tests/survive.py does at length: runs that are killed, interrupted, without room
on the disk or beside a second one, and random arguments."""

import pytest
from survive import STATUSES, arguments, survive, writers


def quiet(line):
    pass


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "n"), [("kills", 12), ("signals", 12), ("disks", 12)])
def test_a_disturbed_run_is_the_undisturbed_one(kind, n):
    assert survive(kind, n, report=quiet) >= n


@pytest.mark.slow
def test_a_second_run_changes_nothing():
    assert writers(6, report=quiet) == 6


def test_any_arguments_end_as_documented():
    counts = arguments(100, seed=1, report=quiet)
    assert set(counts) == set(STATUSES) and counts[0] and counts[2]
