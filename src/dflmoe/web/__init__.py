"""The live page: what a site's node does, for people at that site; it only reads."""
