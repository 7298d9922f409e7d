"""Folders of data sets as their publishers ship them, one set or collection a module."""
