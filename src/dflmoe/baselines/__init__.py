"""What the method is compared with; one short file each."""
