"""The kernel: SOL_TLS system calls and what can be read back. No protocol, no cryptography."""
