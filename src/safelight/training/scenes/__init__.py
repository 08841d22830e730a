"""Emoji composited into scenes whose captions can be checked by arithmetic."""
