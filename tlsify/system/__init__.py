"""Access to the operating system: processes, signals, files, limits, systemd."""
