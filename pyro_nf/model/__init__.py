"""The user's model as a function of many points."""
