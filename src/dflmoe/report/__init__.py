"""What came of it, for people and for machines."""
