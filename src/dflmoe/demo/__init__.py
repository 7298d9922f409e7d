"""The demonstration: real hospitals' nodes as processes of this machine, over mutual TLS."""
