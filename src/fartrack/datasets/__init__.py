"""Datasets that training and evaluation both read: published layouts, sequences, stills."""
