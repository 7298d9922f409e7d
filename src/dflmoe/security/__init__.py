"""Who may be believed: keys, invitations, the roster. Pure, but for reading key files."""
