"""Scores, intervals and the words that follow from them; pure."""
