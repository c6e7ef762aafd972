"""Tests of descriptor_limit."""

from __future__ import annotations

import subprocess
import sys


def test_limit_of_descriptors() -> None:
    """It is raised for the door, where places and newcomers need that, and not for programs."""
    program = """
import resource
from tlsify.cli.descriptor_limit import DescriptorLimit

def soft():
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]

resource.setrlimit(resource.RLIMIT_NOFILE, (256, 1500))
limit = DescriptorLimit()
assert (limit.suffice_for(40), soft()) == ((40, 1024), 40 + 64 + 1024)
limit.restore()
assert soft() == 256
assert (limit.suffice_for(600), soft()) == ((600, 1500 - 64 - 600), 1500)
limit.restore()
assert (limit.suffice_for(2000), soft()) == ((1500 - 64, 16), 1500)
limit.restore()
resource.setrlimit(resource.RLIMIT_NOFILE, (1400, 1500))
assert (DescriptorLimit().suffice_for(40), soft()) == ((40, 1024), 1400)
"""
    done = subprocess.run([sys.executable, "-c", program], stderr=subprocess.PIPE, check=False)
    assert done.returncode == 0, done.stderr
    assert (
        done.stderr == b"1436 connections at once, and not 2000: no more descriptors (ulimit -n)\n"
    )
