"""Chats out of aiia and into it: exports of whole trees, and imports from others' exports.

An export is JSON that `importing.read` takes again, or Markdown of the branch that is shown. `importing` reads our own
JSON and the exports of ChatGPT, Open WebUI and LibreChat into `parsed.ParsedChat`, and stores those.
"""
