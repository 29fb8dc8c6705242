"""Pyro autoguides made of flows."""
