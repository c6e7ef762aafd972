"""Tests of relayed connections of wrapped programs."""
