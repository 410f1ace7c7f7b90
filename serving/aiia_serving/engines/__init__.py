"""Where models run: the local Ray head, and how each engine's model becomes a Ray Serve application."""
