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

resource.setrlimit(resource.RLIMIT_NOFILE, (256, 5000))
limit = DescriptorLimit()
assert (limit.suffice_for(40), soft()) == ((40, 4096), 40 + 64 + 4096)
limit.restore()
assert soft() == 256
assert (limit.suffice_for(1000), soft()) == ((1000, 5000 - 64 - 1000), 5000)
limit.restore()
assert (limit.suffice_for(9000), soft()) == ((5000 - 64, 16), 5000)
limit.restore()
resource.setrlimit(resource.RLIMIT_NOFILE, (4500, 5000))
assert (DescriptorLimit().suffice_for(40), soft()) == ((40, 4096), 4500)
"""
    done = subprocess.run([sys.executable, "-c", program], stderr=subprocess.PIPE, check=False)
    assert done.returncode == 0, done.stderr
    assert (
        done.stderr == b"4936 connections at once, and not 9000: no more descriptors (ulimit -n)\n"
    )
