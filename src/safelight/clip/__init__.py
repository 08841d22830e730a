"""A whole CLIP, and what it is asked: whether, and where, a picture shows what a text says."""
