"""What the platform's processes tell of themselves: logs, traces and metrics. Prompts and answers go into none."""
