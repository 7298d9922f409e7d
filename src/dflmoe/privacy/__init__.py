"""What is lent can tell about patients: how much, measured before anybody else does."""
