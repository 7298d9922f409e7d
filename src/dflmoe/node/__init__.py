"""A hospital's own process and what it keeps: its home, its exchange with peers, its life."""
