"""A site's model as a file: what it is, how it is made anew, and what it says of new rows."""
