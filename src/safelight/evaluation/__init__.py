"""How good the pictures of a model are, in numbers with their floors, ceilings and counts."""
