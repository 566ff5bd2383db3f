"""The fault loops, short, each as the program that `make torture` runs for long."""

import re
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def counts(*command):
    """What a loop that found no fault printed last: name -> number."""
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=REPOSITORY, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    [line] = done.stdout.splitlines()
    return {name: int(number) for name, number in re.findall(r"'([a-z ]+)': (\d+)", line)}


def test_a_workflow_killed_at_random_moments_ends_in_the_same_bytes():
    assert counts("tests.faults.kill", "6", "15")["same bytes"] >= 1


def test_after_a_power_cut_the_workflow_ends_in_the_same_bytes():
    assert counts("tests.faults.kill", "--power", "2", "15") == {"same bytes": 2}


def test_damaged_files_are_found_refused_or_made_again():
    assert counts("tests.faults.damage", "12", "15").keys() == {"found", "refused", "made again"}
