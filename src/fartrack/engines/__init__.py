"""Engines: one small class for each runtime that can run a model; none is imported before it is asked for."""
