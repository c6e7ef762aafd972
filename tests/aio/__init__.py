"""Tests of asyncio's part."""
