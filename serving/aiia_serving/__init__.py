"""Model catalogue, gateway, manager and Ray Serve applications. Knows nothing of the platform."""
