"""The doors: parse, one call, answer. What can go wrong becomes a status in responses.py."""
