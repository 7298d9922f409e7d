"""Many sites on one machine."""
