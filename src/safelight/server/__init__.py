"""Safelight as a server: one queue, one sampling thread, and the APIs that clients speak."""
