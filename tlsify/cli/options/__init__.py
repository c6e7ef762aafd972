"""Options that several verbs share, and their TOML form."""
