"""Documents as earlier versions wrote them: what was once written has to be read for ever.

A folder for each version. ``python -m tests.golden`` writes what the folder of this version has not
yet, and never replaces a file.
"""
