"""The pilot: what each site has alone, what it has with borrowed heads, and whether it is real."""
