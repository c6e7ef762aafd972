"""Tests of the integrations: unmodified servers over real HTTPS."""
