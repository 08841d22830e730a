"""The model that the package carries, so that it draws without a download."""
