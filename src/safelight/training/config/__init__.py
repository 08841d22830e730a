"""What `safelight train` is told in a TOML file: read, checked, and every mistake named at once."""
