"""Rows in: tables, arrays, the embedded hospitals, and splits by patient."""
