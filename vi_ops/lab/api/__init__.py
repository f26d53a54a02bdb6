"""Handlers of the lab API, one file for each part of the tree."""
