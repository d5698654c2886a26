"""Edits of held-out synthetic people, held against the picture that the renderer draws for the same wish."""
