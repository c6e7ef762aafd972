"""What strangers can send, as functions of bytes: for `scripts/fuzz`, and for the kept corpus."""
