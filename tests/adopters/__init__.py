"""Programs that have adopted tlsify, as docs/adopters.md has it."""
