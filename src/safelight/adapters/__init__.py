"""What is added to a loaded network without changing its weights."""
