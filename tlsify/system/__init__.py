"""What tlsify asks of the operating system: processes, signals, files, limits, systemd."""
