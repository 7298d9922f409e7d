"""The measuring instrument: methods, tasks and seeds played against each other on real data."""
