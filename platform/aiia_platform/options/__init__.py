"""What administrators set for the whole installation while it runs, and where each value comes from."""
