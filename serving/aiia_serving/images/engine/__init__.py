"""Runs image jobs on one device: who is next, how far they are, what fits into memory, what becomes of failures."""
