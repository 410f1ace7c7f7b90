"""The `aiia` command: runs the other roles as processes on one machine, and speaks to a running instance."""
