"""Requests for images: read in OpenAI's shape, sent to a replica as jobs, answered as one body or as a stream."""
