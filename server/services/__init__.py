"""Use cases: what happens when a platform, an app or the owner says something."""
