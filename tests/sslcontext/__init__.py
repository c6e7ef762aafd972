"""Tests of sslcontext."""
